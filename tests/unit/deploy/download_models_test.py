"""The download program against a hub on loopback that redirects, breaks off and lies. Budget: 20 s."""

import hashlib
import http.server
import json
import os
import pathlib
import subprocess
import sys
import tempfile
import threading
import time
import unittest

ROOT = pathlib.Path(__file__).resolve().parents[3]
PROGRAM = ROOT / "deploy/images/download_models.py"
COMMIT = "0123456789abcdef0123456789abcdef01234567"
TOKEN = "hf_only_for_the_hub"
CONFIG = b'{"model_type": "gemma4"}'
WEIGHTS = bytes(range(256)) * 12_000  # 3 MB.


def GitBlob(data):
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


class Hub(http.server.ThreadingHTTPServer):
    """siblings as the real one lists them; large files live under another host name."""

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.requests = []          # (path, Range, Authorization).
        self.needs_token = False
        self.break_after = []       # Bytes after which the next answers to /blob end.
        self.stall = threading.Event()
        self.stall_after = None     # Bytes after which an answer to /blob hangs.
        self.weights = WEIGHTS      # What is sent, whatever was promised.
        self.ranges = True
        threading.Thread(target=self.serve_forever, args=(0.02,), daemon=True).start()


class Handler(http.server.BaseHTTPRequestHandler):

    def log_message(self, *_):
        pass

    def do_GET(self):
        hub = self.server
        wanted, token = self.headers.get("Range"), self.headers.get("Authorization")
        hub.requests.append((self.path, wanted, token))
        if self.path == "/blob":
            return self.Blob(wanted)
        if hub.needs_token and token != f"Bearer {TOKEN}":
            return self.Send(401, b"")
        if self.path == "/api/models/google/tiny/revision/main?blobs=true":
            return self.Send(200, json.dumps({"sha": COMMIT, "siblings": [
                {"rfilename": "config.json", "size": len(CONFIG), "blobId": GitBlob(CONFIG)},
                {"rfilename": "README.md", "size": 5, "blobId": "0" * 40},
                {"rfilename": "original/model.safetensors", "size": 5, "blobId": "0" * 40},
                {"rfilename": "model.safetensors", "size": len(WEIGHTS), "blobId": "0" * 40,
                 "lfs": {"size": len(WEIGHTS), "sha256": hashlib.sha256(WEIGHTS).hexdigest()}},
            ]}).encode())
        if self.path == f"/google/tiny/resolve/{COMMIT}/config.json":
            return self.Send(200, CONFIG)
        if self.path == f"/google/tiny/resolve/{COMMIT}/model.safetensors":
            self.send_response(302)
            self.send_header("Location", f"http://localhost:{hub.server_port}/blob")
            self.send_header("Content-Length", "0")
            self.end_headers()
            return None
        return self.Send(404, b"")

    def Send(self, code, body):
        self.send_response(code)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def Blob(self, wanted):
        hub = self.server
        first = int(wanted[len("bytes="):-1]) if wanted and hub.ranges else 0
        body = hub.weights[first:]
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


class DownloadTest(unittest.TestCase):

    def setUp(self):
        temporary = tempfile.TemporaryDirectory(prefix="facet-hub-")
        self.addCleanup(temporary.cleanup)
        self.directory = pathlib.Path(temporary.name, "models/tiny")
        self.token_file = pathlib.Path(temporary.name, "token")
        self.token_file.write_text(TOKEN + "\n")
        self.hub = Hub()
        self.addCleanup(self.hub.server_close)
        self.addCleanup(self.hub.shutdown)
        self.addCleanup(self.hub.stall.set)

    def Start(self, *arguments, revision="main"):
        child = subprocess.Popen(
            [sys.executable, PROGRAM, *arguments, f"google/tiny@{revision}={self.directory}"],
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
            env={**os.environ, "HF_ENDPOINT": f"http://127.0.0.1:{self.hub.server_port}"})
        self.addCleanup(child.stdout.close)
        self.addCleanup(child.wait)
        self.addCleanup(child.kill)
        return child

    def Run(self, *arguments, **fields):
        child = self.Start(*arguments, **fields)
        text, _ = child.communicate(timeout=30)
        return child.returncode, text

    def Blobs(self):
        return [wanted for path, wanted, _ in self.hub.requests if path == "/blob"]

    def CheckFiles(self):
        names = {path.name for path in self.directory.iterdir()}
        self.assertEqual(names, {".facet", "config.json", "model.safetensors"})
        self.assertEqual((self.directory / "config.json").read_bytes(), CONFIG)
        self.assertEqual((self.directory / "model.safetensors").read_bytes(), WEIGHTS)

    def test_what_a_worker_reads_is_there_and_nothing_else(self):
        code, text = self.Run("download")
        self.assertEqual(code, 0, text)
        self.CheckFiles()
        record = json.loads((self.directory / ".facet/complete.json").read_text())
        self.assertEqual(record["commit"], COMMIT)
        before = len(self.hub.requests)
        self.assertEqual(self.Run("download")[0], 0)
        self.assertEqual(len(self.hub.requests), before, "a complete model needs no hub")

    def test_the_token_goes_to_the_hub_and_nowhere_else(self):
        self.hub.needs_token = True
        code, text = self.Run("download")
        self.assertEqual(code, 2)
        self.assertIn("may be gated", text)
        code, text = self.Run("download", f"--token-file={self.token_file}")
        self.assertEqual(code, 0, text)
        self.assertNotIn(TOKEN, text)
        for path, _, token in self.hub.requests:
            if path == "/blob":
                self.assertIsNone(token)

    def test_a_broken_connection_is_taken_up_where_it_ended(self):
        self.hub.break_after = [1_000_000]
        code, text = self.Run("download")
        self.assertEqual(code, 0, text)
        self.CheckFiles()
        self.assertEqual(self.Blobs(), [None, "bytes=1000000-"])

    def test_a_killed_run_is_taken_up_by_the_next(self):
        self.hub.stall_after = 2 << 20
        child = self.Start("download")
        part = self.directory / ".facet/model.safetensors.part"
        end = time.monotonic() + 20
        while not (part.exists() and part.stat().st_size >= 1 << 20):
            self.assertLess(time.monotonic(), end)
            time.sleep(0.02)
        child.kill()
        child.wait()
        have = part.stat().st_size
        self.hub.stall_after = None
        code, text = self.Run("download")
        self.assertEqual(code, 0, text)
        self.CheckFiles()
        self.assertEqual(self.Blobs(), [None, f"bytes={have}-"])

    def test_a_server_without_ranges_begins_again(self):
        self.hub.ranges = False
        self.hub.break_after = [1_000_000]
        code, text = self.Run("download")
        self.assertEqual(code, 0, text)
        self.CheckFiles()

    def test_a_wrong_byte_is_never_put_in_its_place(self):
        self.hub.weights = WEIGHTS[:-1] + b"x"
        child = self.Start("download")
        end = time.monotonic() + 20
        while len(self.Blobs()) < 2:  # It was refused, and asked for anew.
            self.assertLess(time.monotonic(), end)
            time.sleep(0.02)
        self.hub.weights = WEIGHTS
        text, _ = child.communicate(timeout=30)
        self.assertEqual(child.returncode, 0, text)
        self.assertIn("its digest is", text)
        self.CheckFiles()
        self.assertEqual(set(self.Blobs()), {None}, "nothing of the wrong file is kept")

    def test_what_does_not_exist_is_said_at_once(self):
        code, text = self.Run("download", revision="gone")
        self.assertEqual(code, 2)
        self.assertIn("not found", text)

    def test_another_revision_does_not_change_files_that_may_be_read(self):
        self.assertEqual(self.Run("download")[0], 0)
        code, text = self.Run("download", revision="v2")
        self.assertEqual(code, 2)
        self.assertIn("holds google/tiny@main", text)
        self.CheckFiles()

    def test_await_returns_when_the_download_is_complete(self):
        waiting = self.Start("await")
        self.assertIn("not complete", waiting.stdout.readline())
        self.assertIsNone(waiting.poll())
        self.assertEqual(self.Run("download")[0], 0)
        self.assertEqual(waiting.wait(20), 0)


if __name__ == "__main__":
    unittest.main()
