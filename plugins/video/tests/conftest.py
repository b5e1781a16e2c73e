"""Clips for the tests of pystream-video: the real one, and small ones made on the fly."""

from __future__ import annotations

import functools
import http.server
import threading
from pathlib import Path

import av
import numpy as np
import pytest

CLIP = Path(__file__).parents[3] / "docs" / "examples" / "data" / "big_buck_bunny.mp4"


@pytest.fixture
def bunny():
    """The real clip: 132 frames of 1280x720 at 25 frames/s, with sound."""
    return CLIP


def make_clip(path, frames=20, rate=25, size=(64, 48), codec="libx264"):
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=rate)
        stream.width, stream.height = size
        stream.pix_fmt = "yuv420p"
        container.start_encoding()  # so that there is a file without a frame, too
        for number in range(frames):
            image = np.full((size[1], size[0], 3), number * 8 % 256, np.uint8)
            image[10:30, number : number + 20] = (250, 20, 20)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        container.mux(stream.encode(None))
    return path


@pytest.fixture
def clip(tmp_path):
    """Makes a small clip: ``clip("name.mp4", frames=20, rate=25, size=(64, 48))``."""
    return lambda name, **options: make_clip(tmp_path / name, **options)


def remux(target, streams=("video", "audio"), **options):
    """Copy streams of the real clip, undecoded, into another container."""
    with av.open(str(CLIP)) as source, av.open(str(target), "w", options=options) as container:
        copies = {
            stream: container.add_stream_from_template(stream)
            for stream in source.streams
            if stream.type in streams
        }
        for packet in source.demux(*copies):
            if packet.dts is not None:
                packet.stream = copies[packet.stream]
                container.mux(packet)
    return target


@pytest.fixture
def remuxed(tmp_path):
    """Copies the real clip into another container: ``remuxed("name.mkv")``."""
    return lambda name, *streams, **options: remux(
        tmp_path / name, streams or ("video", "audio"), **options
    )


class _Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *args):
        """Say nothing."""


class _Server(http.server.ThreadingHTTPServer):
    daemon_threads = False  # so that closing waits for them

    def handle_error(self, request, client_address):
        """Readers go away in the middle; that is what the tests are about."""


class Site:
    """A web server on the loopback that can go away and come back at the same port."""

    def __init__(self, folder):
        self._folder = folder
        self._port = 0
        self._server = None

    def start(self):
        handler = functools.partial(_Quiet, directory=str(self._folder))
        self._server = _Server(("127.0.0.1", self._port), handler)
        self._port = self._server.server_port
        self._thread = threading.Thread(
            target=self._server.serve_forever, kwargs={"poll_interval": 0.01}
        )
        self._thread.start()
        return self

    def stop(self):
        if self._server is not None:
            self._server.shutdown()
            self._thread.join(5)
            self._server.server_close()
            self._server = None

    def url(self, name):
        return f"http://127.0.0.1:{self._port}/{name}"


@pytest.fixture
def site(tmp_path):
    """A running web server of the test's own folder, without Range requests."""
    running = Site(tmp_path).start()
    yield running
    running.stop()
