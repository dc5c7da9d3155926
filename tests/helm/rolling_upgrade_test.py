"""The chart's pods, really run: an upgrade of routers and workers under load loses no stream, and
without the routers' preStop it does. Budget: 90 s.
"""

import concurrent.futures
import copy
import itertools
import re
import sys
import threading
import time
import unittest

import grpc

import helm
import pod_runner

sys.path.append(str(helm.ROOT / 'tests/e2e'))
import reflected  # noqa: E402

MODEL = 'facet-demo-e4b'
IMAGE_FILES = {'/usr/share/facet/models': str(helm.ROOT / 'deploy/demo/models')}
VALUES = {
    'insecureNetwork': True,
    'router': {'replicas': 2, 'preStopSeconds': 7, 'drainSeconds': 20},
    'pools': [{'name': 'e4b', 'model': MODEL, 'replicas': 2, 'drainSeconds': 20,
               'config': {'threads': 1, 'kv_bytes': 64 << 20}}],
}
NEW_TOKENS = 96
CALIBRATION_SECONDS = 2
CLIENTS = 16
# What routers say of a worker that was silent for a second: on a machine with other work to do that
# happens without any upgrade.
STOOD_STILL = re.compile('no heartbeat for|its step runs for')


class Balancer:
    """A client that takes the service's endpoints in turn, as it sees them now."""

    def __init__(self, cluster):
        self._cluster = cluster
        self._turn = itertools.count()
        self._lock = threading.Lock()
        self._clients = {}
        self.failures = []  # (address, what happened).
        self.num_streams = 0

    def Stream(self):
        """One whole answer; what goes wrong is noted, never retried."""
        address = 'no endpoint'
        try:
            endpoints = self._cluster.Endpoints('facet-router')
            address = endpoints[next(self._turn) % len(endpoints)]
            client = self._Client(address)
            reflected.Answer(client.Chat(client.ChatRequest(
                MODEL, 'What is the capital of France?', sampling={'temperature': 0},
                limits={'new_tokens_max': NEW_TOKENS, 'ignore_eos': True}), timeout=30))
        except grpc.RpcError as error:
            self.failures.append((address, f'{error.code().name}: {error.details()}'))
        except Exception as error:  # An answer with a gap, or no endpoint.
            self.failures.append((address, repr(error)))
        with self._lock:
            self.num_streams += 1

    def _Client(self, address):
        with self._lock:
            if address not in self._clients:
                self._clients[address] = reflected.Client(f'{address}:7070')
            return self._clients[address]

    def Capacity(self):
        """Streams per second when all clients ask without a pause."""
        end = time.monotonic() + CALIBRATION_SECONDS
        before = self.num_streams

        def Ask():
            while time.monotonic() < end:
                self.Stream()

        threads = [threading.Thread(target=Ask) for _ in range(CLIENTS)]
        begin = time.monotonic()
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return (self.num_streams - before) / (time.monotonic() - begin)


class Load:
    """While the context lasts, streams begin at an even rate, whatever becomes of earlier ones."""

    def __init__(self, balancer, streams_per_second):
        self._balancer = balancer
        self._period = 1 / streams_per_second
        self._stop = threading.Event()
        self._pool = concurrent.futures.ThreadPoolExecutor(4 * CLIENTS)
        self._thread = threading.Thread(target=self._Run)

    def _Run(self):
        due = time.monotonic()
        while not self._stop.wait(max(0, due - time.monotonic())):
            self._pool.submit(self._balancer.Stream)
            due += self._period

    def __enter__(self):
        self._thread.start()
        return self

    def __exit__(self, *_):
        self._stop.set()
        self._thread.join()
        self._pool.shutdown()


def WithoutPreStop(objects):
    changed = copy.deepcopy(objects)
    for it in changed:
        if it['kind'] == 'Deployment':
            del it['spec']['template']['spec']['containers'][0]['lifecycle']
    return changed


class RollingUpgradeTest(unittest.TestCase):

    @classmethod
    def setUpClass(cls):
        cls.old = helm.Render(VALUES).objects
        cls.new_router = helm.Render({**VALUES, 'images': {'router': {'tag': '9.9.8'}}}).objects
        cls.new_worker = helm.Render({**VALUES, 'images': {'router': {'tag': '9.9.8'},
                                                           'workerCpu': {'tag': '9.9.9'}}}).objects

    def Start(self, objects):
        cluster = pod_runner.Cluster(image_files=IMAGE_FILES)
        self.addCleanup(cluster.Close)
        cluster.Apply(objects)
        balancer = Balancer(cluster)
        rate = balancer.Capacity() / 2
        self.assertEqual([crash for pod in cluster.pods for crash in pod.crashes], [])
        self.assertEqual([what for _, what in balancer.failures if not STOOD_STILL.search(what)], [])
        balancer.failures.clear()
        return cluster, balancer, rate

    def test_an_upgrade_loses_no_stream(self):
        balancer = self.Upgrade()
        if balancer.failures and all(STOOD_STILL.search(what) for _, what in balancer.failures):
            print(f'again, because the machine stood still: {balancer.failures}', file=sys.stderr)
            balancer = self.Upgrade()
        self.assertEqual(balancer.failures, [])

    def Upgrade(self):
        """Routers, then workers, under load; returns the client that bore it."""
        cluster, balancer, rate = self.Start(self.old)
        before = balancer.num_streams
        first = {pod.name for pod in cluster.pods}
        with Load(balancer, rate):
            cluster.Apply(self.new_router)
            routers_gone = [pod for pod in cluster.gone]
            cluster.AwaitGone()
            cluster.Apply(self.new_worker)
            cluster.AwaitGone()
        print(f'{balancer.num_streams - before} streams at {rate:.1f}/s, '
              f'{len(balancer.failures)} failed', file=sys.stderr)
        self.assertEqual(len(routers_gone), 2)
        self.assertEqual({pod.name for pod in cluster.gone}, first)  # Every pod was replaced.
        self.assertEqual([crash for pod in cluster.gone + cluster.pods for crash in pod.crashes], [])
        self.assertEqual([pod.LogEnd() for pod in cluster.gone if pod.exit_code != 0], [])
        self.assertEqual([(pod.exit_code, pod.was_killed, pod.restarts) for pod in cluster.gone],
                         [(0, False, 0)] * 4)
        self.assertEqual([pod.restarts for pod in cluster.pods], [0] * 4)
        self.assertGreater(balancer.num_streams - before, 20)
        return balancer

    def test_without_pre_stop_the_same_upgrade_loses_streams(self):
        cluster, balancer, rate = self.Start(WithoutPreStop(self.old))
        with Load(balancer, rate):
            cluster.Apply(WithoutPreStop(self.new_router))
            cluster.AwaitGone()
        print(f'without preStop {len(balancer.failures)} failed', file=sys.stderr)
        ended = {pod.address for pod in cluster.gone}
        lost = [what for address, what in balancer.failures if address in ended]
        self.assertTrue(lost, 'routers that ended were asked, and nobody noticed')
        for what in lost:
            self.assertTrue(what.startswith('UNAVAILABLE'), what)


if __name__ == '__main__':
    unittest.main()
