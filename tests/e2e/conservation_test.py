"""Sums of time and money hold on every scrape, under load of two tenants with cancels, a worker that
is killed and started again, and a change of price. Budget: 90 s.

FACET_CONSERVATION_SECONDS: how long the load lasts; 60 by default, more in `make soak`.
"""

import hashlib
import os
import pathlib
import random
import secrets
import tempfile
import threading
import time
import unittest

import grpc

import cluster

SECONDS = float(os.environ.get('FACET_CONSERVATION_SECONDS', '60'))
SCRAPE_GAP_SECONDS = 0.2
STREAMS_OF_A_TENANT = 3
TENANTS = ('red', 'blue')
BUSY_STATES = ('prefill', 'decode', 'mixed', 'assist')


def Nanos(metrics, name, **wanted):
    """The sum in whole nanoseconds or nano-USD: samples are doubles, what they stand for is not."""
    return sum(round(value * 1e9) for labels, value in metrics.get(name, ())
               if all(labels.get(key) == label for key, label in wanted.items()))


def Problems(metrics):
    """The sums that do not hold in one scrape of a worker."""
    held = Nanos(metrics, 'facet_device_seconds_total')
    states = Nanos(metrics, 'facet_device_state_seconds_total')
    busy = sum(Nanos(metrics, 'facet_device_state_seconds_total', state=state)
               for state in BUSY_STATES)
    borrowed = (Nanos(metrics, 'facet_device_borrowed_seconds_total')
                - Nanos(metrics, 'facet_device_lent_seconds_total'))
    attributed = Nanos(metrics, 'facet_device_busy_seconds_total')
    wasted = Nanos(metrics, 'facet_device_wasted_seconds_total')
    cost = Nanos(metrics, 'facet_device_cost_usd_total')
    paid = (Nanos(metrics, 'facet_cost_usd_total') + Nanos(metrics, 'facet_idle_cost_usd_total')
            + Nanos(metrics, 'facet_lent_cost_usd_total')
            - Nanos(metrics, 'facet_borrowed_cost_usd_total'))
    found = []
    if states != held:
        found.append(f'states {states} ns, held {held} ns')
    if attributed != busy + borrowed:
        found.append(f'attributed {attributed} ns, busy {busy} ns, borrowed {borrowed} ns')
    if wasted > attributed:
        found.append(f'wasted {wasted} ns of {attributed} ns')
    if paid != cost:
        found.append(f'paid {paid} nano-USD, the device cost {cost}')
    return found


class Scraper:
    """Looks at one worker after another until it is stopped."""

    def __init__(self, servers):
        self._servers = servers
        self._ends = threading.Event()
        self.problems = []
        self.num_scrapes = 0
        self.num_busy = 0  # Of them, during a request.
        self.tenants = set()  # That were charged.
        self._held = {}  # By worker process.
        self._thread = threading.Thread(target=self._Run)
        self._thread.start()

    def Stop(self):
        self._ends.set()
        self._thread.join()

    def _Run(self):
        while not self._ends.wait(SCRAPE_GAP_SECONDS):
            for worker in list(self._servers.workers):
                try:
                    metrics = cluster.Scrape(worker.metrics_port)
                except OSError:
                    continue  # It is dead or starts.
                self._Check(worker, metrics)

    def _Check(self, worker, metrics):
        if not metrics.get('facet_device_seconds_total'):
            return  # It loads: there is no engine yet.
        self.num_scrapes += 1
        self.num_busy += cluster.Sum(metrics, 'facet_worker_sequences', state='running') > 0
        self.tenants |= {labels['tenant'] for labels, _ in
                         metrics.get('facet_device_busy_seconds_total', ())}
        self.problems += [f'{worker.name}: {problem}' for problem in Problems(metrics)]
        for name in ('facet_device_seconds_total', 'facet_device_cost_usd_total',
                     'facet_idle_cost_usd_total'):
            now = Nanos(metrics, name)
            before = self._held.get((worker.process, name), 0)
            if now < before:
                self.problems.append(f'{worker.name}: {name} fell from {before} to {now}')
            self._held[worker.process, name] = now


class Load:
    """Streams of one tenant, one after another; some are cancelled, some are long prompts."""

    def __init__(self, client, seed, ends):
        self._client = client
        self._random = random.Random(seed)
        self._ends = ends
        self.num_whole = 0
        self.num_cancelled = 0
        self.num_lost = 0

    def Run(self):
        while time.monotonic() < self._ends:
            words = ' '.join(['river'] * self._random.choice((1, 40, 200)))
            request = self._client.ChatRequest(
                cluster.E4B, words, sampling={'temperature': 1, 'seed': self._random.randrange(99)},
                limits={'new_tokens_max': self._random.choice((5, 60, 200))})
            cancels_after = self._random.choice((0, 0, 3))
            try:
                call = self._client.Chat(request, timeout=60)
                for number, _ in enumerate(call, 1):
                    if number == cancels_after:
                        call.cancel()
                self.num_whole += 1
            except grpc.RpcError as error:
                if error.code() == grpc.StatusCode.CANCELLED:
                    self.num_cancelled += 1
                else:
                    self.num_lost += 1
                    time.sleep(0.2)


class ConservationTest(unittest.TestCase):

    def setUp(self):
        directory = tempfile.TemporaryDirectory(prefix='facet-e2e-')
        self.addCleanup(directory.cleanup)
        keys = ['fk_' + secrets.token_hex(32) for _ in TENANTS]
        tenants_file = pathlib.Path(directory.name, 'tenants.yaml')
        tenants_file.write_text('tenants:\n' + ''.join(
            f'  - {{name: {tenant}, keys: ["sha256:{hashlib.sha256(key.encode()).hexdigest()}"]}}\n'
            for tenant, key in zip(TENANTS, keys)))
        self.prices_file = pathlib.Path(directory.name, 'prices.yaml')
        self.WritePrice('3.6')
        self.servers = cluster.Cluster({cluster.E4B: 2}, router={'queue_wait_ms_max': 5000},
                                       api_key=keys[0], fields={'tenants_file': tenants_file,
                                                                'prices_file': self.prices_file})
        self.addCleanup(self.servers.Stop)
        self.clients = [self.servers.NewClient(api_key=key) for key in keys]

    def WritePrice(self, usd_per_hour):
        """Workers read it within a second; it holds from then on."""
        fresh = self.prices_file.with_suffix('.new')
        fresh.write_text('prices:\n  - device_class: cpu\n    dates:\n'
                         f'      - {{from: "2020-01-01T00:00:00Z", usd_per_hour: "{usd_per_hour}"}}\n')
        os.replace(fresh, self.prices_file)

    def testSumsHoldOnEveryScrape(self):
        scraper = Scraper(self.servers)
        self.addCleanup(scraper.Stop)
        ends = time.monotonic() + SECONDS
        loads = [Load(client, number, ends) for number, client in
                 enumerate(self.clients * STREAMS_OF_A_TENANT)]
        threads = [threading.Thread(target=load.Run) for load in loads]
        for thread in threads:
            thread.start()
        time.sleep(SECONDS / 3)
        self.servers.workers[0].process.Kill()
        self.servers.RestartWorker(0)
        self.WritePrice('0.123456789')
        for thread in threads:
            thread.join()
        scraper.Stop()
        self.assertEqual(scraper.problems[:10], [])
        self.assertEqual(scraper.tenants, set(TENANTS))
        for worker in self.servers.workers:
            price = cluster.Sum(cluster.Scrape(worker.metrics_port),
                                'facet_device_price_usd_per_second')
            self.assertAlmostEqual(price * 3600, 0.123456789, places=9)
        self.assertGreater(scraper.num_scrapes, SECONDS)
        self.assertGreater(scraper.num_busy, SECONDS / 4)
        for outcome in ('num_whole', 'num_cancelled', 'num_lost'):
            total = sum(getattr(load, outcome) for load in loads)
            print(f'{outcome[4:]}: {total}')
            if outcome != 'num_lost':
                self.assertGreater(total, 0)
        print(f'{scraper.num_scrapes} scrapes, {scraper.num_busy} of them under load')


if __name__ == '__main__':
    unittest.main()
