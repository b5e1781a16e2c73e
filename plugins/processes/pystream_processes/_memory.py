"""Shared memory without a name: what the system forgets with the last descriptor and mapping.

In huge pages, where it is worth it and the system can make them: copies into small ones spend up to
a third of their time looking these up. On most systems shared memory does not get them by itself,
but since Linux 6.1 on request (MADV_COLLAPSE, see madvise(2)), for what lies at a multiple of
their size.
"""

from __future__ import annotations

import ctypes
import errno
import functools
import logging
import mmap
import os
from pathlib import Path
from typing import Any, Final

logger = logging.getLogger("PyStream")

_COLLAPSE: Final = 25  # MADV_COLLAPSE
_FIXED: Final = 0x10  # MAP_FIXED
_HUGE: Final = Path("/sys/kernel/mm/transparent_hugepage/hpage_pmd_size")


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
        huge = _huge_page()
        if huge and size >= huge:
            self._map, self._begin = _map_aligned(descriptor, size, huge)
        else:
            self._map, self._begin = mmap.mmap(descriptor, size), 0
        self.address = _address(self._map) + self._begin

    def exporter(self, offset: int, length: int) -> Any:
        """An object over a range, which lives as long as any memoryview or array made of it,
        and can be watched by a weak reference."""
        return (ctypes.c_char * length).from_buffer(self._map, self._begin + offset)

    def use_huge_pages(self) -> bool:
        """Make them huge ones, whatever they hold and whoever uses them; whether that was done.

        Blocks for some milliseconds per page. When the system does not know how, nobody asks again.
        """
        huge = _huge_page()
        length = self.size // huge * huge if huge else 0
        if not length or _refusals:
            return False
        for begin in range(self.address, self.address + length, huge):
            ctypes.string_at(begin, 1)  # one small page has to be there
        if libc().madvise(self.address, length, _COLLAPSE):
            number = ctypes.get_errno()
            if number == errno.EINVAL:  # else it has none just now
                _refusals.append(number)
            logger.debug("no huge pages for shared memory: %s", os.strerror(number))
            return False
        return True


_refusals: list[int] = []  # of the system to make huge pages


def _map_aligned(descriptor: int, size: int, alignment: int) -> tuple[mmap.mmap, int]:
    """Memory mapped at a multiple of the alignment, amid a mapping that owns its place; where in
    that it begins."""
    around = mmap.mmap(-1, size + alignment, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    begin = -_address(around) % alignment
    protection, flags = mmap.PROT_READ | mmap.PROT_WRITE, mmap.MAP_SHARED | _FIXED
    wanted = _address(around) + begin
    if libc().mmap(wanted, size, protection, flags, descriptor, 0) != wanted:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return around, begin


def _address(mapping: mmap.mmap) -> int:
    return ctypes.addressof(ctypes.c_char.from_buffer(mapping))


@functools.cache
def _huge_page() -> int:
    """Bytes of a huge page; 0: this system has none for shared memory."""
    try:
        return int(_HUGE.read_text())
    except (OSError, ValueError):
        return 0


@functools.cache
def libc() -> Any:
    """The C library of this process, which keeps the number of an error for ``get_errno``."""
    found = ctypes.CDLL(None, use_errno=True)
    address, size, number = ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int
    found.mmap.restype = address
    found.mmap.argtypes = (address, size, number, number, number, ctypes.c_long)
    found.madvise.argtypes = (address, size, number)
    return found


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
