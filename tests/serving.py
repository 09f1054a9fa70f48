"""A server on the loopback that speaks TensorFlow Serving's REST form, and fails as it is told to."""

import contextlib
import http.server
import json
import threading
import time


class Server:
    """Serves a function of nested lists.

    Attributes:
      url: its address, with ":predict".
      faults: what the next requests get in place of an answer: functions of the handler and the right answer, in turn.
      sizes: the number of images of each request.
      images: those of the last request, as lists.
    """

    def __init__(self, predict, shape=None, dtype="DT_FLOAT"):
        self.predict, self.faults, self.sizes, self.images = predict, [], [], None
        self.version, self.metadata = "1", None
        if shape:
            dims = [{"size": str(size), "name": ""} for size in (-1, *shape)]
            takes = {"images": {"dtype": dtype, "tensor_shape": {"dim": dims, "unknown_rank": False}}}
            self.metadata = {"signature_def": {"signature_def": {"serving_default": {"inputs": takes}}}}

    def answer(self, handler):
        """Answers a request for predictions."""
        body = json.loads(handler.rfile.read(int(handler.headers["Content-Length"])))
        self.images = body["instances"]
        self.sizes.append(len(self.images))
        answer = {"predictions": self.predict(self.images)}
        if self.faults:
            self.faults.pop(0)(handler, answer)
        else:
            send(handler, answer)


def send(handler, answer, status=200, **headers):
    """Sends JSON, or bytes as they are."""
    body = answer if isinstance(answer, bytes) else json.dumps(answer).encode()
    handler.send_response(status)
    for name, value in {"Content_Length": str(len(body)), **headers}.items():
        handler.send_header(name.replace("_", "-"), value)
    handler.end_headers()
    handler.wfile.write(body)


def dropped(handler, answer):
    """Closes the connection without an answer."""
    handler.close_connection = True


def cut(handler, answer):
    """Closes the connection in the middle of the answer."""
    handler.close_connection = True
    body = json.dumps(answer).encode()
    send(handler, body[: len(body) // 2], Content_Length=str(len(body)))


def failed(handler, answer):
    """Status 503."""
    send(handler, {"error": "overloaded"}, 503)


def late(seconds):
    """A fault that answers after a while."""

    def fault(handler, answer):
        time.sleep(seconds)
        with contextlib.suppress(OSError):
            send(handler, answer)

    return fault


@contextlib.contextmanager
def serving(predict, **options):
    """A `Server` that runs."""
    server = Server(predict, **options)

    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self):
            if server.metadata and self.path == "/v1/models/m/metadata":
                send(self, {"model_spec": {"name": "m", "version": server.version}, "metadata": server.metadata})
            else:
                send(self, {"error": "not found"}, 404)

        def do_POST(self):
            server.answer(self)

        def log_message(self, *args):
            pass

    own = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.url = f"http://127.0.0.1:{own.server_port}/v1/models/m:predict"
    thread = threading.Thread(target=own.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        own.shutdown()
        own.server_close()
        thread.join()
