"""Usage records from the engine to `facet usage`: every nanosecond and nano-USD once, whoever dies.
Budget: 60 s.
"""

import collections
import concurrent.futures
import datetime
import json
import os
import pathlib
import signal
import subprocess
import tempfile
import time
import unittest

import grpc

import cluster
import reflected
from identity_test import NewKey

STREAMS = 16
STREAM_TOKENS = 300
LONG_TOKENS = 1500
CHANGED_SECONDS_MAX = 5  # A file is read each second.
NANO = 10**9


def Records(directory):
    """What counts, by key: a few lines beside the real reader."""
    records = {}
    for path in sorted(pathlib.Path(directory).glob('usage-*.jsonl')):
        for line in path.read_text().split('\n')[:-1]:
            record = json.loads(line)
            key = record.get('worker_epoch', 0), record['request_id'], record['epoch']
            if key not in records or records[key]['settled_by'] == 'router':
                records[key] = record
    return records


def NumLines(directory):
    return sum(path.read_text().count('\n')
               for path in pathlib.Path(directory).glob('usage-*.jsonl'))


def Cost(records):
    return sum(record.get('prefill_nano_usd', 0) + record.get('decode_nano_usd', 0)
               for record in records)


def DeviceNs(records):
    return sum(record.get('prefill_ns', 0) + record.get('decode_ns', 0) for record in records)


def Nano(seconds):
    """An exported sum, as the integer that it was."""
    return round(seconds * NANO)


def Instant(unix_seconds):
    return datetime.datetime.utcfromtimestamp(unix_seconds).strftime('%Y-%m-%dT%H:%M:%S.%fZ')


class UsageTest(unittest.TestCase):

    def setUp(self):
        directory = tempfile.TemporaryDirectory(prefix='facet-e2e-')
        self.addCleanup(directory.cleanup)
        self.directory = pathlib.Path(directory.name)
        self.ledger = self.directory / 'ledger'
        keys = {tenant: NewKey(tenant) for tenant in ('acme', 'zeta')}
        tenants = self.directory / 'tenants.yaml'
        tenants.write_text('tenants:\n' + ''.join(f'  {line}\n' for _, line in keys.values()))
        self.prices = self.directory / 'prices.yaml'
        self.WritePrices([('2020-01-01T00:00:00Z', '3.6')])
        self.servers = cluster.Cluster(
            {cluster.E4B: 2}, api_key=keys['acme'][0],
            fields={'tenants_file': tenants, 'ledger_directory': self.ledger,
                    'prices_file': self.prices})
        self.keys = {tenant: key for tenant, (key, _) in keys.items()}
        self.Connect()
        self.ended = []  # What streams that failed were told.
        self.pool = concurrent.futures.ThreadPoolExecutor(STREAMS)
        self.addCleanup(self.End)

    def End(self):
        self.pool.shutdown()
        for client in self.clients:
            client.Close()
        self.servers.Stop()

    def Connect(self):
        self.clients = [self.servers.NewClient(api_key=key) for key in self.keys.values()]

    def WritePrices(self, dates, device_class='cpu'):
        """Replaced as a whole."""
        fresh = self.prices.with_suffix('.new')
        fresh.write_text(f'prices:\n  - device_class: {device_class}\n    dates:\n' + ''.join(
            f'      - {{from: "{instant}", usd_per_hour: "{usd}"}}\n' for instant, usd in dates))
        os.replace(fresh, self.prices)

    def Generate(self, number, tokens=STREAM_TOKENS, cancel_after=None):
        """One stream of a tenant, whole or cancelled; its answer, or None if it ended early."""
        client = self.clients[number % len(self.clients)]
        call = client.Generate(client.New(
            'GenerateRequest', model=cluster.E4B, text='Once upon a time' * (1 + number % 3),
            sampling={'temperature': 1.0, 'seed': number + 1},
            limits={'new_tokens_max': tokens, 'ignore_eos': True}), timeout=40)
        def Read(answer):
            if cancel_after is not None and len(answer.token_ids) >= cancel_after:
                call.cancel()
        try:
            return reflected.Answer(call, Read)
        except grpc.RpcError as error:
            self.ended.append(error.details())
            return None

    def Load(self, **options):
        return [self.pool.submit(self.Generate, number, **options) for number in range(STREAMS)]

    def Batch(self):
        concurrent.futures.wait([self.pool.submit(self.Generate, number) for number in range(4)])

    def AwaitRunning(self, count):
        def Running():
            status = self.servers.client.GetStatus(self.servers.client.New('GetStatusRequest'),
                                                   timeout=5)
            return min(worker.sequences_running for worker in status.workers) >= count
        cluster.WaitFor(Running, f'{count} sequences on each worker', 20)

    def Workers(self):
        return [cluster.Scrape(worker.metrics_port) for worker in self.servers.workers
                if worker.process.running()]

    def Unconfirmed(self):
        return sum(cluster.Sum(metrics, 'facet_usage_journal_records')
                   + cluster.Sum(metrics, 'facet_worker_sequences') for metrics in self.Workers())

    def AwaitSettled(self):
        cluster.WaitFor(lambda: self.Unconfirmed() == 0, 'every record is confirmed', 15)

    def Usage(self, *flags):
        done = subprocess.run([cluster.BIN / 'facet', 'usage', '--ledger', self.ledger, *flags],
                              capture_output=True, text=True, timeout=20)
        self.assertEqual(done.returncode, 0, done.stderr)
        return done.stdout

    def CheckReport(self):
        """`facet usage` says what a few lines of Python do."""
        records = Records(self.ledger).values()
        want = collections.defaultdict(lambda: [0, 0, 0])
        for record in records:
            for phase in ('prefill', 'decode'):
                row = want[record['tenant'], record['model'], phase]
                row[0] += 1
                row[1] += record.get(f'{phase}_ns', 0)
                row[2] += record.get(f'{phase}_nano_usd', 0)
        rows = [json.loads(line) for line in
                self.Usage('--by', 'tenant,model,phase', '--json').splitlines()]
        self.assertEqual({(row['tenant'], row['model'], row['phase']):
                          [row['requests'], row['device_ns'], row['nano_usd']] for row in rows},
                         dict(want))
        self.assertEqual({row['tenant'] for row in rows}, {'acme', 'zeta'})
        cost = Cost(records)
        table = self.Usage()
        self.assertIn(f'{cost // NANO}.{cost % NANO:09}', table.splitlines()[-1])

    def test_the_ledger_is_the_counters_to_the_nano_usd_and_follows_the_price(self):
        whole = self.Load()
        cancelled = [self.pool.submit(self.Generate, number, cancel_after=5)
                     for number in range(STREAMS)]
        answers = [stream.result() for stream in whole]
        self.assertTrue(all(answers), self.ended)
        concurrent.futures.wait(cancelled)
        self.AwaitSettled()
        records = Records(self.ledger)
        self.assertEqual(len(records), 2 * STREAMS)
        self.assertEqual(NumLines(self.ledger), 2 * STREAMS)
        self.CheckSums(records.values())
        by_id = {record['request_id']: record for record in records.values()}
        for answer in answers:
            usage, record = answer.finished.usage, by_id[answer.accepted.request_id]
            self.assertEqual((record['outcome'], record['finish']), ('OK', 'length'))
            self.assertEqual(record['output_tokens'], usage.completion_tokens)
            # A step that was under way when the answer ended is charged, but not in the reply.
            overrun = record.get('wasted_ns', {}).get('overrun', 0)
            self.assertEqual(record['prefill_ns'], usage.prefill_device_ns)
            self.assertEqual(record['decode_ns'], usage.decode_device_ns + overrun)
            self.assertNear(Cost([record]), usage.cost_nano_usd + overrun // 1000, 2)
            self.assertEqual(record['worker'], answer.accepted.worker)
            self.assertNear(Cost([record]), DeviceNs([record]) // 1000, STREAM_TOKENS)
        self.assertEqual(sum(record.get('outcome') == 'CANCELLED' for record in records.values()),
                         STREAMS)

        # Ten times as dear from an instant on, which the workers learn of before.
        instant = time.time() + CHANGED_SECONDS_MAX
        self.WritePrices([('2020-01-01T00:00:00Z', '3.6'), (Instant(instant), '36')])
        for worker in self.servers.workers:
            worker.process.WaitForEvent('prices file read again', CHANGED_SECONDS_MAX)
        while time.time() < instant:
            self.Batch()
        self.Batch()  # All of it at the new price.
        self.AwaitSettled()
        self.WritePrices([('2020-01-01T00:00:00+01:00', '1')])
        for worker in self.servers.workers:
            refused = worker.process.WaitForEvent('prices file refused, the prices stay as they were',
                                                  CHANGED_SECONDS_MAX)
            self.assertIn('prices.yaml:4: prices[0].dates[0].from is', refused['cause'])
            self.assertAlmostEqual(cluster.Sum(cluster.Scrape(worker.metrics_port),
                                               'facet_device_price_usd_per_second'), 0.01)
        records = Records(self.ledger)
        before, after = 0, 0
        for record in records.values():
            ns, cost = DeviceNs([record]), Cost([record])
            if record['end_unix_ns'] < instant * NANO:
                before += 1
                self.assertNear(cost, ns // 1000, 2 * STREAM_TOKENS)
            elif record['start_unix_ns'] > instant * NANO:
                after += 1
                self.assertNear(cost, ns // 100, 2 * STREAM_TOKENS)
        self.assertGreater(before, 2 * STREAMS)
        self.assertGreater(after, 0)
        self.CheckSums(records.values())
        self.CheckReport()
        cluster.WaitFor(lambda: self.servers.WorkerStatus(0).price_usd_per_hour == 36,
                        'the router tells the new price', 5)

    def assertNear(self, left, right, delta):
        """Charges are cut to nanoseconds and nano-USD, a step at a time."""
        self.assertAlmostEqual(left, right, delta=delta)

    def CheckSums(self, records):
        """The records are the workers' counters, exactly."""
        for tenant in self.keys:
            for phase in ('prefill', 'decode'):
                own = [record for record in records if record['tenant'] == tenant]
                for field, metric in ((f'{phase}_ns', 'facet_device_busy_seconds_total'),
                                      (f'{phase}_nano_usd', 'facet_cost_usd_total')):
                    counted = sum(Nano(cluster.Sum(metrics, metric, tenant=tenant, phase=phase))
                                  for metrics in self.Workers())
                    self.assertEqual(sum(record.get(field, 0) for record in own), counted,
                                     (tenant, field))

    def test_records_of_a_killed_router_come_once_to_the_next(self):
        streams = self.Load(tokens=LONG_TOKENS)
        self.AwaitRunning(2)
        self.servers.router.Kill()
        concurrent.futures.wait(streams)
        for client in (*self.clients, self.servers.client):
            client.Close()
        # Its sessions' sequences are settled, and nobody is there who could confirm.
        cluster.WaitFor(lambda: sum(cluster.Sum(metrics, 'facet_usage_journal_records')
                                    for metrics in self.Workers()) > 0, 'records wait', 10)
        self.servers.StartRouter()
        self.Connect()
        self.AwaitSettled()
        self.CheckReportOfLosses()
        records = Records(self.ledger)
        self.assertEqual(NumLines(self.ledger), len(records))
        self.CheckSums(records.values())
        self.assertIn('cancelled', {record['finish'] for record in records.values()})

    def test_a_killed_workers_requests_are_settled_by_the_router_and_count_once(self):
        streams = self.Load(tokens=LONG_TOKENS)
        self.AwaitRunning(2)
        self.servers.workers[0].process.Kill()
        concurrent.futures.wait(streams)
        self.AwaitSettled()
        def Charged():
            metrics = cluster.Scrape(self.servers.metrics_port)
            return Nano(cluster.Sum(metrics, 'facet_charged_usd_total'))
        def AllThere():
            # Of the other worker, too, if a busy machine kept it silent for too long.
            lost = cluster.Sum(cluster.Scrape(self.servers.metrics_port),
                               'facet_worker_lost_total', worker='1')
            cost, charged = Cost(Records(self.ledger).values()), Charged()
            return cost == charged if lost == 0 else cost >= charged
        cluster.WaitFor(AllThere, 'the ledger is what the router charged', 5)
        records = Records(self.ledger)
        self.assertEqual(len(records), STREAMS)
        lost = [record for record in records.values() if record['settled_by'] == 'router']
        self.assertGreater(len(lost), 0)
        self.assertIn(('e4b/0', 'UNAVAILABLE', 'lost'),
                      {(record['worker'], record['outcome'], record['finish'])
                       for record in lost})
        self.assertGreater(Cost(lost), 0)
        self.CheckReportOfLosses()
        # The next life offers what the killed one had settled: no more than before, and no less.
        self.servers.RestartWorker(0)
        self.servers.WaitReady()
        self.AwaitSettled()
        again = Records(self.ledger)
        self.assertEqual(set(again), set(records))
        self.assertGreaterEqual(Cost(again.values()), Charged())
        self.CheckReportOfLosses()

    def CheckReportOfLosses(self):
        self.CheckReport()
        total = self.Usage('--by', 'settled_by,outcome').splitlines()[-1]
        self.assertTrue(total.startswith('total'), total)


if __name__ == '__main__':
    unittest.main()
