"""A small web server on this machine that serves a dictionary of files and can misbehave."""

import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class WebServer(ThreadingHTTPServer):
    """Serves `files` {path: bytes}. `requests` holds (path, Range header) of all that was asked for.

    ranges: whether Range is understood. etag: the validator; None for none. drop_after: bytes of a body after which the
    connection is cut, once each time it is set. statuses: list of HTTP errors to answer first. answers: list of (status, body,
    headers) to give first, True or not; a header of None is left out. hold: paths that are answered
    only once `release` is set. drip: seconds after each of ten parts of a body.
    """

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.files, self.requests, self.statuses, self.answers, self.hold = {}, [], [], [], set()
        self.ranges, self.etag, self.drop_after, self.release = True, '"1"', None, threading.Event()
        self.drip = 0
        self.address = f"http://127.0.0.1:{self.server_port}"
        threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()

    def handle_error(self, request, client_address):
        pass  # clients that were killed


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        server, asked = self.server, self.headers.get("Range")
        server.requests.append((self.path, asked))
        if self.path in server.hold:
            server.release.wait()
        body = server.files.get(self.path)
        if server.statuses:
            return self.answer(server.statuses.pop(0), b"busy")
        if server.answers:
            return self.answer(*server.answers.pop(0))
        if body is None:
            return self.answer(404, b"no such file")
        start = 0
        if server.ranges and asked and self.headers.get("If-Range", server.etag) == server.etag:
            start = int(asked.removeprefix("bytes=").removesuffix("-"))
            if start >= len(body):
                return self.answer(416, b"", {"Content-Range": f"bytes */{len(body)}"})
        headers = {"ETag": server.etag} if server.etag else {}
        if start:
            headers["Content-Range"] = f"bytes {start}-{len(body) - 1}/{len(body)}"
        self.answer(206 if start else 200, body[start:], headers)

    def answer(self, status, body, headers=None):
        self.send_response(status)
        for name, value in ({"Content-Length": len(body), "Connection": "close"} | (headers or {})).items():
            if value is not None:
                self.send_header(name, str(value))
        self.end_headers()
        if self.server.drop_after is not None and status in (200, 206):
            body, self.server.drop_after = body[:self.server.drop_after], None
        for part in range(10):
            self.wfile.write(body[part * len(body) // 10:(part + 1) * len(body) // 10])
            self.server.release.wait(self.server.drip)
        self.close_connection = True

    def log_message(self, *arguments):
        pass
