"""What both processes export adds up with itself and with what clients were told. Budget: 15 s."""

import os
import re
import time
import unittest

import cluster
import reflected

ROUNDING = 1e-9  # Exported values are whole nanoseconds or nano-USD, divided by 1e9.

QUESTIONS = ('What is the capital of France?', 'Count from one to five.', 'Tell me a story.',
             'What is the opposite of hot?')


def Contract():
    """Name → type of every metric in deploy/metrics.yaml; the file is a flat list of that shape."""
    text = (cluster.ROOT / 'deploy/metrics.yaml').read_text()
    return dict(re.findall(r'- name: (\S+)\n(?:    .*\n)*?    type: (\S+)', text))


def BaseName(name, contract):
    for suffix in ('_bucket', '_sum', '_count'):
        base = name.removesuffix(suffix)
        if base != name and contract.get(base) == 'histogram':
            return base
    return name


class MetricsTest(unittest.TestCase):

    @classmethod
    def setUpClass(cls):
        cls.servers = cluster.Cluster({cluster.E4B: 1, cluster.A4B: 1})
        cls.answers = {model: [] for model in (cluster.E4B, cluster.A4B)}
        for model, answers in cls.answers.items():
            for question in QUESTIONS:
                answers.append(cls.servers.Ask(question, model))
            answers.append(cls.servers.Ask('Name the capital city of Japan.', model,
                                           enable_thinking=True, limits={'new_tokens_max': 150}))
            cluster.CodeOf(lambda: cls.servers.Ask(model=model, sampling={'temperature': 9}))
        cls.router = cluster.Scrape(cls.servers.metrics_port)
        cls.workers = {}
        for worker, model in zip(cls.servers.workers, cls.answers):
            output = sum(answer.finished.usage.completion_tokens for answer in cls.answers[model])
            def Settled():
                metrics = cluster.Scrape(worker.metrics_port)
                counted = cluster.Sum(metrics, 'facet_worker_tokens_total', kind='output')
                return metrics if counted == output else None
            cls.workers[model] = cluster.WaitFor(Settled, f'{worker.name} counts {output} tokens')

    @classmethod
    def tearDownClass(cls):
        codes = cls.servers.Stop()
        assert codes == [0, 0, 0], codes

    def Usages(self, model):
        return [answer.finished.usage for answer in self.answers[model]]

    def assertNear(self, left, right, terms):
        """Equal but for the rounding of this many exported values, and doubles' own."""
        self.assertAlmostEqual(left, right, delta=ROUNDING * (terms + 1))

    def test_the_states_of_a_device_fill_its_time(self):
        for model, metrics in self.workers.items():
            held = cluster.Sum(metrics, 'facet_device_seconds_total')
            states = metrics['facet_device_state_seconds_total']
            self.assertGreater(held, 0)
            self.assertNear(sum(value for _, value in states), held, len(states))
            self.assertLessEqual({'loading', 'idle', 'prefill', 'decode'},
                                 {labels['state'] for labels, _ in states})

    def test_busy_time_is_attributed_to_tenants(self):
        for model, metrics in self.workers.items():
            states = sum(cluster.Sum(metrics, 'facet_device_state_seconds_total', state=state)
                         for state in ('prefill', 'decode', 'mixed'))
            busy = metrics['facet_device_busy_seconds_total']
            self.assertGreater(states, 0)
            self.assertNear(sum(value for _, value in busy), states, len(busy) + 3)

    # The next step is planned before the last token of an answer is known. What it computes for
    # that answer is busy time and has its cost, but no client is charged for it.

    def test_device_time_is_what_clients_were_told_and_what_overran(self):
        for model, metrics in self.workers.items():
            told = sum(usage.prefill_device_ns + usage.decode_device_ns
                       for usage in self.Usages(model)) / 1e9
            overrun = cluster.Sum(metrics, 'facet_device_wasted_seconds_total', reason='overrun')
            busy = cluster.Sum(metrics, 'facet_device_busy_seconds_total')
            self.assertNear(busy, told + overrun, 3)
            self.assertLess(overrun, told)
            prefill = sum(usage.prefill_device_ns for usage in self.Usages(model)) / 1e9
            self.assertNear(cluster.Sum(metrics, 'facet_device_busy_seconds_total',
                                        phase='prefill'), prefill, 1)

    def test_cost_is_what_clients_were_told_and_what_overran(self):
        for model, metrics in self.workers.items():
            told = sum(usage.cost_nano_usd for usage in self.Usages(model)) / 1e9
            self.assertGreater(told, 0)
            price = cluster.Sum(metrics, 'facet_device_price_usd_per_second')
            self.assertAlmostEqual(price, 0.001, places=9)
            overrun = cluster.Sum(metrics, 'facet_device_wasted_seconds_total', reason='overrun')
            cost = cluster.Sum(metrics, 'facet_cost_usd_total')
            # The router counts charges that come after an answer's end, too.
            self.assertNear(cluster.Sum(self.router, 'facet_charged_usd_total', model=model), cost,
                            1)
            # Two phases of each request are rounded down, and so is what overran.
            self.assertNear(cost, told + overrun * price, 3 * len(self.Usages(model)))
            busy = cluster.Sum(metrics, 'facet_device_busy_seconds_total')
            self.assertNear(cost, busy * price, 2 * len(self.Usages(model)))

    def test_idle_cost_is_the_price_of_all_other_time(self):
        for model, metrics in self.workers.items():
            rest = sum(cluster.Sum(metrics, 'facet_device_state_seconds_total', state=state)
                       for state in ('loading', 'idle', 'drain', 'fault'))
            # Money is rounded wherever a state begins: at each step at the most.
            steps = cluster.Sum(metrics, 'facet_worker_steps_total')
            self.assertNear(cluster.Sum(metrics, 'facet_idle_cost_usd_total'), rest * 0.001, steps)

    def test_tokens_are_what_clients_were_told(self):
        for model in self.answers:
            usages = self.Usages(model)
            thinking = sum(usage.thinking_tokens for usage in usages)
            self.assertGreater(thinking, 0)
            for kind, told in (
                    ('prompt', sum(usage.prompt_tokens for usage in usages)),
                    ('output', sum(usage.completion_tokens for usage in usages) - thinking),
                    ('output_thinking', thinking)):
                self.assertEqual(
                    cluster.Sum(self.router, 'facet_tokens_total', model=model, kind=kind), told,
                    (model, kind))
            prompt = cluster.Sum(self.workers[model], 'facet_worker_tokens_total',
                                 kind='prompt_computed')
            self.assertEqual(prompt, sum(usage.prompt_tokens for usage in usages))

    def test_requests_are_counted_by_their_end(self):
        for model in self.answers:
            self.assertEqual(cluster.Sum(self.router, 'facet_requests_total', model=model,
                                         code='OK'), len(self.answers[model]))
            self.assertEqual(cluster.Sum(self.router, 'facet_requests_total', model=model,
                                         code='INVALID_ARGUMENT'), 1)
            self.assertEqual(cluster.Sum(self.router, 'facet_time_to_first_token_seconds_count',
                                         model=model), len(self.answers[model]))
            self.assertEqual(cluster.Sum(self.router, 'facet_requests_running', model=model), 0)
        self.assertEqual(cluster.Sum(self.router, 'facet_worker_ready'), 2)

    def test_routers_tell_what_they_know_of_workers(self):
        metrics = cluster.Scrape(self.servers.metrics_port)
        ages = [value for _, value in metrics['facet_worker_report_age_seconds']]
        self.assertEqual(len(ages), 2)
        self.assertTrue(all(0 < age < 1 for age in ages), ages)
        for labels, value in metrics['facet_worker_credits']:
            self.assertGreater(value, 0, labels)

    def test_processes_tell_what_they_take(self):
        for program, metrics in [('router', self.router)] + [
                ('worker', metrics) for metrics in self.workers.values()]:
            memory = cluster.Sum(metrics, 'facet_process_resident_bytes', program=program)
            self.assertGreater(memory, 1 << 20)
            self.assertLess(memory, cluster.Sum(metrics, 'facet_process_memory_limit_bytes'))
            age = time.time() - cluster.Sum(metrics, 'facet_process_start_time_seconds')
            self.assertTrue(0 < age < 600, age)
            used = cluster.Sum(metrics, 'facet_process_cpu_seconds_total')
            self.assertTrue(0 < used < age * os.cpu_count(), (used, age))
            self.assertEqual(cluster.Sum(metrics, 'facet_build_info'), 1)

    def test_every_exported_name_stands_in_the_contract(self):
        contract = Contract()
        self.assertGreater(len(contract), 20)
        own = re.compile(r'exposer_|process_|prometheus_')  # The library's, on itself.
        for metrics in (self.router, *self.workers.values()):
            unknown = {name for name in metrics
                       if BaseName(name, contract) not in contract and not own.match(name)}
            self.assertEqual(unknown, set())


if __name__ == '__main__':
    unittest.main()
