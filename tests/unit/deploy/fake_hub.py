"""A Hugging Face hub on loopback with one model, google/tiny at revision main."""

import hashlib
import http.server
import json
import threading

COMMIT = "0123456789abcdef0123456789abcdef01234567"


def git_blob(data):
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


class Hub(http.server.ThreadingHTTPServer):
    """Lists files as the real one does; safetensors are large, and live under another host name."""

    daemon_threads = True

    def __init__(self, files, token=""):
        super().__init__(("127.0.0.1", 0), Handler)
        self.files = files
        self.token = token
        self.sent = dict(files)     # What is sent, whatever was promised.
        self.requests = []          # (path, Range, Authorization).
        self.needs_token = False
        self.break_after = []       # Bytes after which the next answers with a large file end.
        self.stall = threading.Event()
        self.stall_after = None     # Bytes after which such an answer hangs.
        self.ranges = True
        threading.Thread(target=self.serve_forever, args=(0.02,), daemon=True).start()

    def endpoint(self):
        return f"http://127.0.0.1:{self.server_port}"

    def siblings(self):
        """As the hub lists them, with two that nobody wants."""
        listed = [{"rfilename": name, "size": 5, "blobId": "0" * 40}
                  for name in ("README.md", "original/model.safetensors")]
        for name, data in self.files.items():
            it = {"rfilename": name, "size": len(data), "blobId": git_blob(data)}
            if name.endswith(".safetensors"):
                it["lfs"] = {"size": len(data), "sha256": hashlib.sha256(data).hexdigest()}
            listed.append(it)
        return listed


class Handler(http.server.BaseHTTPRequestHandler):

    def log_message(self, *_):
        pass

    def do_GET(self):
        hub = self.server
        wanted, token = self.headers.get("Range"), self.headers.get("Authorization")
        hub.requests.append((self.path, wanted, token))
        folder, _, name = self.path.rpartition("/")
        if folder == "/blob":
            self.blob(name, wanted)
        elif hub.needs_token and token != f"Bearer {hub.token}":
            self.send(401, b"")
        elif self.path == "/api/models/google/tiny/revision/main?blobs=true":
            self.send(200, json.dumps({"sha": COMMIT, "siblings": hub.siblings()}).encode())
        elif folder != f"/google/tiny/resolve/{COMMIT}" or name not in hub.files:
            self.send(404, b"")
        elif name.endswith(".safetensors"):
            self.send_response(302)
            self.send_header("Location", f"http://localhost:{hub.server_port}/blob/{name}")
            self.send_header("Content-Length", "0")
            self.end_headers()
        else:
            self.send(200, hub.sent[name])

    def send(self, code, body):
        self.send_response(code)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def blob(self, name, wanted):
        hub = self.server
        first = int(wanted[len("bytes="):-1]) if wanted and hub.ranges else 0
        body = hub.sent[name][first:]
        self.send_response(206 if first else 200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if hub.break_after:
            body = body[:hub.break_after.pop(0)]
        elif hub.stall_after is not None:
            self.wfile.write(body[:hub.stall_after])
            self.wfile.flush()
            hub.stall.wait(20)
            return
        self.wfile.write(body)
