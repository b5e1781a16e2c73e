"""Shared memory without a name: what the system forgets with the last descriptor and mapping."""

from __future__ import annotations

import ctypes
import mmap
import os
from typing import Any


def make_nameless(size: int) -> int:
    """The descriptor of new memory. Nothing of it appears in a folder, so nothing can be left
    there, however its owners end."""
    if hasattr(os, "memfd_create"):
        number = os.memfd_create("pystream", os.MFD_CLOEXEC)
    else:  # pragma: no cover - systems other than Linux
        import tempfile

        with tempfile.TemporaryFile() as file:
            number = os.dup(file.fileno())
    os.ftruncate(number, size)
    return number


class Map:
    """The memory of a descriptor in this process. It goes with the last view of it."""

    def __init__(self, descriptor: int, size: int) -> None:
        self.size = size
        self._map = mmap.mmap(descriptor, size)
        self.address = ctypes.addressof(ctypes.c_char.from_buffer(self._map))

    def exporter(self, offset: int, length: int) -> Any:
        """An object over a range, which lives as long as any memoryview or array made of it,
        and can be watched by a weak reference."""
        return (ctypes.c_char * length).from_buffer(self._map, offset)


def view_of(exporter: Any) -> memoryview:
    """The bytes of an exporter, to be written to as well."""
    return memoryview(exporter).cast("B")


class _Buffer(ctypes.Structure):
    """``Py_buffer`` of the stable interface."""

    _fields_ = (
        ("buf", ctypes.c_void_p),
        ("obj", ctypes.py_object),
        ("len", ctypes.c_ssize_t),
        ("itemsize", ctypes.c_ssize_t),
        ("readonly", ctypes.c_int),
        ("ndim", ctypes.c_int),
        ("format", ctypes.c_char_p),
        ("shape", ctypes.c_void_p),
        ("strides", ctypes.c_void_p),
        ("suboffsets", ctypes.c_void_p),
        ("internal", ctypes.c_void_p),
    )


def address_of(view: memoryview) -> int:
    """Where the bytes of a contiguous view lie, also of one that cannot be written to."""
    if view.nbytes and not view.readonly:
        return ctypes.addressof(ctypes.c_char.from_buffer(view))  # three times as fast
    buffer = _Buffer()
    ctypes.pythonapi.PyObject_GetBuffer(ctypes.py_object(view), ctypes.byref(buffer), 0)
    try:
        return buffer.buf or 0
    finally:
        ctypes.pythonapi.PyBuffer_Release(ctypes.byref(buffer))


def copy(source: int, target: int, length: int) -> None:
    """Copy bytes from one address to another; other threads run meanwhile."""
    ctypes.memmove(target, source, length)
