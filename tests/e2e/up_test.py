"""`facet up` with the demo's expert-parallel groups: starts them, starts a rank again that was killed,
ends everything. Budget: 40 s.
"""

import os
import pathlib
import re
import signal
import subprocess
import tempfile
import threading
import time
import unittest

import cluster
import reflected

BACK_SECONDS_MAX = 10  # A restart's first delay, loading, and what a group takes to form.


class Up:
    """A `facet up` on free ports; what it says is read line by line."""

    def __init__(self, config):
        text = (cluster.ROOT / 'deploy/demo' / config).read_text()
        text = re.sub(r'127\.0\.0\.1:\d+', lambda _: f'127.0.0.1:{cluster.FreePort()}', text)
        text = text.replace('directory: ', f'directory: {cluster.ROOT}/deploy/demo/')
        self.address = re.search(r'grpc_address: (\S+)', text).group(1)
        self._directory = tempfile.TemporaryDirectory(prefix='facet-e2e-')
        path = pathlib.Path(self._directory.name, config)
        path.write_text(text)
        self.lines = []
        self.process = subprocess.Popen(
            ['setpriv', '--pdeathsig', 'TERM', cluster.BIN / 'facet', 'up', '--config', str(path)],
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        threading.Thread(target=self._Read, daemon=True).start()

    def _Read(self):
        for line in self.process.stdout:
            self.lines.append(line)

    def WaitForLine(self, words, seconds=30):
        def Said():
            if self.process.poll() is not None:
                raise AssertionError(f'facet up ended: {"".join(self.lines)}')
            return any(words in line for line in list(self.lines))
        cluster.WaitFor(Said, f'facet up says "{words}"', seconds)

    def Children(self):
        """Process ids by command line."""
        children = {}
        for task in pathlib.Path(f'/proc/{self.process.pid}/task').iterdir():
            for child in (task / 'children').read_text().split():
                words = pathlib.Path(f'/proc/{child}/cmdline').read_bytes().decode().split('\0')
                children[' '.join(words)] = int(child)
        return children

    def Stop(self):
        self.process.send_signal(signal.SIGTERM)
        code = self.process.wait(30)
        self._directory.cleanup()
        return code


class UpTest(unittest.TestCase):

    def Start(self, config, ranks):
        up = Up(config)
        self.addCleanup(lambda: up.process.poll() is None and up.Stop())
        up.WaitForLine(f'is ready: {ranks} of {ranks} workers')
        return up, reflected.Client(up.address)

    def Ask(self, client):
        request = client.ChatRequest(cluster.A4B, 'What is the capital of France?',
                                     sampling={'temperature': 0}, limits={'new_tokens_max': 32})
        return reflected.Answer(client.Chat(request, timeout=30)).text

    def Status(self, client):
        return client.GetStatus(client.New('GetStatusRequest'), timeout=5).workers

    def test_a_killed_rank_is_started_again_and_the_group_forms(self):
        up, client = self.Start('ep2.yaml', 2)
        self.assertIn('Paris', self.Ask(client))
        epoch = self.Status(client)[0].group_epoch
        rank1 = [pid for words, pid in up.Children().items() if '--index 1' in words]
        self.assertEqual(len(rank1), 1)
        since = time.monotonic()
        os.kill(rank1[0], signal.SIGKILL)
        up.WaitForLine('worker ep2/1 ended with signal 9 (Killed)')
        def Formed():
            workers = self.Status(client)
            return all(client.EnumName('WorkerState', worker.state) == 'WORKER_STATE_READY' and
                       worker.group_epoch > epoch for worker in workers)
        cluster.WaitFor(Formed, 'the group forms again', BACK_SECONDS_MAX)
        self.assertLess(time.monotonic() - since, BACK_SECONDS_MAX)
        self.assertIn('Paris', self.Ask(client))
        client.Close()
        self.assertEqual(up.Stop(), 0)

    def test_four_ranks_answer_and_show_in_the_status(self):
        up, client = self.Start('ep4.yaml', 4)
        self.assertIn('Paris', self.Ask(client))
        table = subprocess.run([cluster.BIN / 'facet', 'status', '--address', up.address],
                               capture_output=True, text=True, timeout=30, check=True).stdout
        self.assertIn('ep4/3 rank 3', table)
        self.assertRegex(table, r'group ep4  epoch \d+, 4 of 4 ranks ready; experts: not told before')
        client.Close()
        children = list(up.Children().values())
        self.assertEqual(len(children), 5)
        self.assertEqual(up.Stop(), 0)
        self.assertEqual([pid for pid in children if os.path.exists(f'/proc/{pid}')], [])


if __name__ == '__main__':
    unittest.main()
