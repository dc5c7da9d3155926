"""A real Prometheus over real processes: what panels and rules ask for is there. Budget: 30 s."""

import json
import math
import re
import subprocess
import shutil
import tempfile
import unittest
import urllib.error
import urllib.parse
import urllib.request

import cluster

DEPLOY = cluster.ROOT / 'deploy'
PROMETHEUS = shutil.which('prometheus')  # Absolute, so it is not looked for beside our programs.
PLACE = {'cluster': 'here', 'namespace': 'test'}  # Labels that a scrape in Kubernetes would give.
VARIABLES = {**PLACE, 'model': '.*', 'pool': '.*', 'tenant': '.*', '__rate_interval': '30s',
             '__range': '5m'}
# Without data while nothing goes wrong and little is asked.
RARE = re.compile('facet_((worker_lost|frames_dropped|slow_consumers|requests_unauthenticated|'
                  'expert_choices|label_overflow)_total|certificate_expiry|worker_group_epoch)')
QUESTIONS = ('What is the capital of France?', 'Tell me a story.', 'Count from one to five.')
ROUNDS = 3


class Prometheus:
    """A server of its own over these metrics ports, with our rules; once a second it scrapes and
    evaluates."""

    def __init__(self, ports):
        self._port = cluster.FreePort()
        self._directory = tempfile.TemporaryDirectory(prefix='facet-prometheus-')
        config = f'{self._directory.name}/prometheus.json'
        targets = [f'127.0.0.1:{port}' for port in ports]
        with open(config, 'w') as file:  # JSON is YAML.
            json.dump({'global': {'scrape_interval': '1s', 'scrape_timeout': '1s',
                                  'evaluation_interval': '1s'},
                       'rule_files': [str(DEPLOY / 'rules/*.yaml')],
                       'scrape_configs': [{'job_name': 'facet', 'static_configs': [
                           {'targets': targets, 'labels': PLACE}]}]}, file)
        self._process = cluster.Process(
            PROMETHEUS, f'--config.file={config}',
            f'--storage.tsdb.path={self._directory.name}/data',
            f'--web.listen-address=127.0.0.1:{self._port}', '--log.level=warn')
        cluster.WaitFor(lambda: self._Scrapes(len(ports)), 'Prometheus scrapes all targets', 30)

    def _Scrapes(self, count):
        assert self._process.running(), self._process.lines
        try:
            return len(self.Query('up == 1')) == count
        except urllib.error.URLError:  # Not listening, or not ready.
            return False

    def Get(self, path, **parameters):
        url = f'http://127.0.0.1:{self._port}/api/v1/{path}?' + urllib.parse.urlencode(parameters)
        with urllib.request.urlopen(url, timeout=10) as reply:
            return json.load(reply)['data']

    def Query(self, query):
        """The series of the result as (labels, value); raises HTTPError if it is refused."""
        return [(series['metric'], float(series['value'][1]))
                for series in self.Get('query', query=query)['result']]

    def Increase(self, name, **labels):
        """What the counters of this name rose by, from the raw samples: what appears starts at 0."""
        matchers = ', '.join(f'{label}="{value}"' for label, value in labels.items())
        samples = [series['values'] for series in
                   self.Get('query', query=f'{name}{{{matchers}}}[10m]')['result']]
        start = min(float(time) for (time, _), *_ in
                    (series['values'] for series in self.Get('query', query='up[10m]')['result']))
        return sum(float(values[-1][1]) - (float(values[0][1]) if values[0][0] < start + 1 else 0)
                   for values in samples)

    def Stop(self):
        code = self._process.Stop()
        self._directory.cleanup()
        return code


def PanelQueries():
    """(where, query) of every panel, its variables replaced."""
    for path in sorted((DEPLOY / 'dashboards').glob('*.json')):
        for panel in json.loads(path.read_text())['panels']:
            for target in panel.get('targets', ()):
                query = re.sub(r'\$(\w+)', lambda match: VARIABLES[match[1]], target['expr'])
                yield f'{path.name}, {panel["title"]}', query


class DashboardsTest(unittest.TestCase):

    @classmethod
    def setUpClass(cls):
        cls.ledger = tempfile.TemporaryDirectory(prefix='facet-ledger-')
        cls.servers = cluster.Cluster({cluster.E4B: 1, cluster.A4B: 1},
                                      pool={'peak_flops': 1e11, 'peak_hbm_bytes_per_second': 1e10},
                                      fields={'ledger_directory': cls.ledger.name})
        cls.prometheus = Prometheus([cls.servers.metrics_port] + [
            worker.metrics_port for worker in cls.servers.workers])
        cls.usages = []
        for _ in range(ROUNDS):
            for model in (cluster.E4B, cluster.A4B):
                for question in QUESTIONS:
                    cls.usages.append(cls.servers.Ask(question, model).finished.usage)
                cluster.CodeOf(lambda: cls.servers.Ask(model=model, sampling={'temperature': 9}))
            cls.WaitForScrape()
        cls.WaitForRules()

    @classmethod
    def WaitForScrape(cls):
        """Returns once both sides' figures of all answers so far are samples."""
        tokens = sum(usage.completion_tokens for usage in cls.usages)
        for name in ('facet_tokens_total{kind=~"output.*"}',
                     'facet_worker_tokens_total{kind="output"}'):
            cluster.WaitFor(lambda: cls.prometheus.Query(f'sum({name}) == {tokens}'),
                            f'{name} is {tokens}')

    @classmethod
    def WaitForRules(cls):
        """Returns once every rule was evaluated after what is there now."""
        def Evaluated():
            return min(rule['lastEvaluation'] for rule in cls.Rules())
        before = max(rule['lastEvaluation'] for rule in cls.Rules())
        cluster.WaitFor(lambda: Evaluated() > before, 'the rules are evaluated')

    @classmethod
    def Rules(cls):
        return [rule for group in cls.prometheus.Get('rules')['groups'] for rule in group['rules']]

    @classmethod
    def tearDownClass(cls):
        assert cls.prometheus.Stop() == 0
        codes = cls.servers.Stop()
        assert codes == [0, 0, 0], codes

    def test_every_panel_has_data(self):
        queries = list(PanelQueries())
        self.assertGreater(len(queries), 40)
        for place, query in queries:
            with self.subTest(place=place):
                values = [value for _, value in self.prometheus.Query(query)]
                if not RARE.search(query):
                    self.assertTrue([value for value in values if math.isfinite(value)], query)

    def test_every_rule_evaluates_and_every_recorded_series_has_data(self):
        rules = self.Rules()
        self.assertGreater(len(rules), 30)
        for rule in rules:
            self.assertEqual((rule['health'], rule.get('lastError', '')), ('ok', ''), rule['name'])
            if rule['type'] == 'recording':
                with self.subTest(name=rule['name']):
                    values = [value for _, value in self.prometheus.Query(rule['name'])]
                    self.assertTrue([value for value in values if math.isfinite(value)])

    def test_every_variable_has_values(self):
        dashboard = json.loads((DEPLOY / 'dashboards/cost.json').read_text())
        listed = [re.fullmatch(r'label_values\((\w+), (\w+)\)', variable['definition'])
                  for variable in dashboard['templating']['list'] if variable['type'] == 'query']
        self.assertEqual(len(listed), 5)
        for series, label in (match.groups() for match in listed):
            values = self.prometheus.Get(f'label/{label}/values', **{'match[]': series})
            self.assertTrue(values, label)

    # No client is charged for the step that was under way when its answer ended: metrics_test.py.

    def test_the_cost_counters_are_the_costs_in_replies(self):
        told = sum(usage.cost_nano_usd for usage in self.usages) / 1e9
        (_, price), = self.prometheus.Query('avg(facet_device_price_usd_per_second)')
        overrun = price * self.prometheus.Increase('facet_device_wasted_seconds_total',
                                                   reason='overrun')
        self.assertGreater(told, 0)
        for name in ('facet_cost_usd_total', 'facet_charged_usd_total'):
            self.assertAlmostEqual(self.prometheus.Increase(name) - overrun, told,
                                   delta=told / 1000, msg=name)


    def test_dollars_of_prometheus_are_those_of_the_ledger(self):
        def Usage():
            lines = subprocess.run(
                [cluster.BIN / 'facet', 'usage', '--ledger', self.ledger.name, '--by', 'model',
                 '--json'], capture_output=True, text=True, check=True).stdout.splitlines()
            rows = {row['model']: row for row in map(json.loads, lines)}
            return rows if sum(row['requests'] for row in rows.values()) == len(self.usages) else None
        rows = cluster.WaitFor(Usage, 'every answer is in the ledger')
        for model, row in rows.items():
            dollars = self.prometheus.Increase('facet_cost_usd_total', model=model)
            self.assertGreater(dollars, 0)
            self.assertAlmostEqual(row['nano_usd'] / 1e9, dollars, delta=dollars / 1000)


if __name__ == '__main__':
    unittest.main()
