"""The download program against a hub on loopback that redirects, breaks off and lies. Budget: 20 s."""

import json
import os
import pathlib
import subprocess
import sys
import tempfile
import time
import unittest

from fake_hub import COMMIT
from fake_hub import Hub

ROOT = pathlib.Path(__file__).resolve().parents[3]
PROGRAM = ROOT / "deploy/images/download_models.py"
TOKEN = "hf_only_for_the_hub"
CONFIG = b'{"model_type": "gemma4"}'
WEIGHTS = bytes(range(256)) * 12_000  # 3 MB.


class DownloadTest(unittest.TestCase):

    def setUp(self):
        temporary = tempfile.TemporaryDirectory(prefix="facet-hub-")
        self.addCleanup(temporary.cleanup)
        self.directory = pathlib.Path(temporary.name, "models/tiny")
        self.token_file = pathlib.Path(temporary.name, "token")
        self.token_file.write_text(TOKEN + "\n")
        self.hub = Hub({"config.json": CONFIG, "model.safetensors": WEIGHTS}, TOKEN)
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
        return [wanted for path, wanted, _ in self.hub.requests if path.startswith("/blob/")]

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
            if path.startswith("/blob/"):
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
        self.hub.sent["model.safetensors"] = WEIGHTS[:-1] + b"x"
        child = self.Start("download")
        end = time.monotonic() + 20
        while len(self.Blobs()) < 2:  # It was refused, and asked for anew.
            self.assertLess(time.monotonic(), end)
            time.sleep(0.02)
        self.hub.sent["model.safetensors"] = WEIGHTS
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
