"""The page at /status and `facet status --watch`: what a browser shows is what the fleet does, also
when a worker dies. Health for probes on the same port. Budget: 40 s."""

import html.parser
import json
import signal
import subprocess
import tempfile
import time
import unittest
import urllib.error
import urllib.request

import cluster

QUESTIONS = ('What is the capital of France?', 'Count from one to five.', 'Tell me a story.')


def Get(port, path):
    """Status code, content type and body."""
    try:
        with urllib.request.urlopen(f'http://127.0.0.1:{port}{path}', timeout=5) as answer:
            return answer.status, answer.headers['Content-Type'], answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.headers['Content-Type'], error.read().decode()


def Le(bound):
    return str(int(bound)) if bound == int(bound) else str(bound)


class Page(html.parser.HTMLParser):
    """Text by the id of the nearest element that has one, tiles, and the paths of the plots."""

    VOID = {'meta', 'link'}

    def __init__(self, text):
        super().__init__()
        self.texts = {}
        self.paths = []
        self._open = []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        attributes = dict(attributes)
        if tag == 'path' and attributes.get('class') == 'series':
            self.paths.append(attributes.get('d', ''))
        if tag not in self.VOID:
            self._open.append((tag, attributes.get('id')))

    def handle_endtag(self, tag):
        while self._open and self._open.pop()[0] != tag:
            pass

    def handle_data(self, data):
        ids = [name for tag, name in self._open if name]
        if ids and data.strip():
            self.texts.setdefault(ids[-1], []).append(data.strip())


class StatusTest(unittest.TestCase):

    @classmethod
    def setUpClass(cls):
        cls.servers = cluster.Cluster({cluster.E4B: 1, cluster.A4B: 1})
        cls.port = cls.servers.metrics_port
        cls.output = 0
        for model in (cluster.E4B, cluster.A4B):
            for question in QUESTIONS:
                answer = cls.servers.Ask(question, model)
                cls.output += answer.finished.usage.completion_tokens

    @classmethod
    def tearDownClass(cls):
        cls.servers.Stop()

    def Browse(self):
        """The page as Chromium has drawn it, and what its console said."""
        with tempfile.TemporaryDirectory() as profile:
            done = subprocess.run(
                ['chromium', '--headless', '--no-sandbox', '--disable-gpu', f'--user-data-dir={profile}',
                 '--enable-logging=stderr', '--virtual-time-budget=3000', '--dump-dom',
                 f'http://127.0.0.1:{self.port}/status'],
                capture_output=True, text=True, timeout=60, check=True)
        return Page(done.stdout), [line for line in done.stderr.splitlines() if 'CONSOLE' in line]

    def test_json_says_what_the_clients_were_told(self):
        code, kind, body = Get(self.port, '/status.json')
        self.assertEqual((code, kind), (200, 'application/json'))
        page = json.loads(body)
        self.assertTrue(page['status']['ready'])
        self.assertEqual([w['pool'] for w in page['status']['workers']], ['e4b', '26b'])
        self.assertEqual(sum(t['output_tokens'] for t in page['tenants']), self.output)
        charged = cluster.Sum(cluster.Scrape(self.port), 'facet_charged_usd_total')
        self.assertAlmostEqual(sum(t['usd'] for t in page['tenants']), charged, places=12)
        lengths = {name: len(values) for name, values in page['history'].items()}
        self.assertEqual(len(set(lengths.values())), 1, lengths)

    def test_quantiles_lie_in_the_buckets_that_metrics_show(self):
        def Known():
            history = json.loads(Get(self.port, '/status.json')[2])['history']
            return history if history['ttft_p50_seconds'][-1] is not None else None
        history = cluster.WaitFor(Known, 'a sample after the first answers')
        buckets = cluster.Scrape(self.port)['facet_time_to_first_token_seconds_bucket']
        bounds = sorted({float(labels['le']) for labels, value in buckets})
        asked = cluster.Sum(cluster.Scrape(self.port), 'facet_time_to_first_token_seconds_count')
        p50, p95 = history['ttft_p50_seconds'][-1], history['ttft_p95_seconds'][-1]
        self.assertLess(0, p50)
        self.assertLessEqual(p50, p95)
        # Half of the observations lie in the buckets up to the one that holds the median.
        above = next(bound for bound in bounds if bound >= p50)
        counted = cluster.Sum(cluster.Scrape(self.port),
                              'facet_time_to_first_token_seconds_bucket', le=Le(above))
        self.assertGreaterEqual(counted, asked / 2)

    def test_browser_shows_the_fleet(self):
        page, console = self.Browse()
        self.assertEqual(console, [], 'no error in the console')
        self.assertIn('2 of 2 workers ready', page.texts['verdict'])
        for worker in ('e4b/0', '26b/0', 'facet-demo-26b', 'ready'):
            self.assertIn(worker, page.texts['workers'])
        self.assertIn('default', page.texts['tenants'])
        self.assertIn('Time to first token', page.texts['plots'])
        self.assertEqual(len(page.paths), 11)
        drawn = [path for path in page.paths if path.count('L') > 0]
        self.assertGreaterEqual(len(drawn), 6, page.paths)
        self.assertFalse([path for path in page.paths if 'NaN' in path or 'Infinity' in path])

    def test_page_asks_nobody_else(self):
        code, kind, body = Get(self.port, '/status')
        self.assertEqual((code, kind), (200, 'text/html; charset=utf-8'))
        self.assertIn("default-src 'none'", body)
        links = [word for word in body.split() if '://' in word and 'www.w3.org' not in word]
        self.assertEqual(links, [])

    def test_watch_prints_a_frame_for_each_answer(self):
        watch = subprocess.Popen([cluster.BIN / 'facet', 'status', '--address',
                                  f'127.0.0.1:{self.servers.grpc_port}', '--watch', '0.2'],
                                 stdout=subprocess.PIPE, text=True)
        try:
            lines, end = [], time.monotonic() + 10
            while sum('output tok/s ' in line and '▁' in line for line in lines) < 3:
                self.assertLess(time.monotonic(), end, lines)
                lines.append(watch.stdout.readline())
        finally:
            watch.send_signal(signal.SIGINT)
            watch.wait(5)
            watch.stdout.close()
        self.assertTrue(any('e4b/0' in line for line in lines))

    def test_z_a_dead_worker_shows(self):
        self.assertEqual(Get(self.port, '/readyz')[0], 200)
        worker = self.servers.workers[1]
        self.assertEqual(Get(worker.metrics_port, '/readyz')[0], 200)
        self.assertEqual(Get(worker.metrics_port, '/livez')[0], 200)
        worker.process.Kill()
        cluster.WaitFor(lambda: not json.loads(Get(self.port, '/status.json')[2])['status']['ready'],
                        'the status says that a worker is missing')
        page, console = self.Browse()
        self.assertEqual(console, [])
        self.assertIn('1 of 2 workers ready', page.texts['verdict'])
        reason = json.loads(Get(self.port, '/status.json')[2])['status']['workers'][1]['reason']
        self.assertNotEqual(reason, '')
        self.assertEqual(Get(self.port, '/readyz')[0], 200, 'the other model is served')
        self.servers.workers[0].process.Kill()
        cluster.WaitFor(lambda: Get(self.port, '/readyz')[0] == 503, 'the router is not ready')
        self.assertEqual(Get(self.port, '/livez')[0], 200)


if __name__ == '__main__':
    unittest.main()
