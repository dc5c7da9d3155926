"""The chart's ledger and prices, with its pods really run: a price changes without a restart, replicas
write files of their own, and what a worker's pod left behind is not lost. Budget: 40 s.
"""

import json
import re
import unittest

import helm
import pod_runner

IMAGE_FILES = {'/usr/share/facet/models': str(helm.ROOT / 'deploy/demo/models')}
NEXT_PRICE_FROM = '2020-01-02T00:00:00Z'
NANO_USD_PER_SECOND = 1_000_000  # At 3.60 USD an hour.


def Render(*dates):
    return helm.Render({
        'insecureNetwork': True,
        'prices': [{'device_class': 'cpu', 'dates': [
            {'from': start, 'usd_per_hour': usd} for start, usd in dates]}],
        'ledger': {'enabled': True},
        'router': {'replicas': 2, 'http': {'enabled': False}, 'preStopSeconds': 0, 'drainSeconds': 5},
        'pools': [{'name': 'e4b', 'model': 'facet-demo-e4b', 'replicas': 1, 'drainSeconds': 5,
                   'config': {'threads': 1, 'kv_bytes': 64 << 20}}]})


class LedgerTest(unittest.TestCase):

    def setUp(self):
        self.cluster = pod_runner.Cluster(image_files=IMAGE_FILES)
        self.addCleanup(self.cluster.Close)
        self.ledger = self.cluster.Claim('facet-ledger') / 'facet'
        self.render = Render(('2020-01-01T00:00:00Z', '3.60'))
        self.cluster.Apply(self.render.objects)
        self.worker, = self.cluster.PodsOf('facet-e4b')

    def Ask(self):
        code, log = self.cluster.Run(self.render.Find('Pod', 'facet-test-generate'))
        self.assertEqual(code, 0, log)

    def Usage(self):
        """The sums that the command of NOTES prints, for one row."""
        words = re.search(r'-- (facet usage .*)', self.render.notes)[1].split()
        words = [it for it in words if not it.startswith(('--by', '--from'))]
        router = self.cluster.PodsOf('facet-router')[0]
        printed = router.Exec([*words, '--by=tenant', '--json'])
        return json.loads(printed) if printed else {'requests': 0, 'device_ns': 0, 'nano_usd': 0}

    def AwaitRequests(self, count):
        pod_runner.WaitFor(lambda: self.Usage()['requests'] == count, f'{count} records', 10)
        return self.Usage()

    def test_a_price_that_changes_holds_without_a_restart(self):
        self.Ask()
        first = self.AwaitRequests(1)
        self.assertGreater(first['device_ns'], 0)
        self.assertAlmostEqual(first['nano_usd'], first['device_ns'] / 1e9 * NANO_USD_PER_SECOND,
                               delta=2)
        pods = list(self.cluster.pods)
        self.cluster.Apply(Render(('2020-01-01T00:00:00Z', '3.60'),
                                  (NEXT_PRICE_FROM, '36')).objects)
        pod_runner.WaitFor(lambda: 'prices file read again' in self.worker.log.read_text(),
                           'the worker has the price', 10)
        self.Ask()
        both = self.AwaitRequests(2)
        self.assertAlmostEqual(both['nano_usd'] - first['nano_usd'],
                               (both['device_ns'] - first['device_ns']) / 1e9 * 10 * NANO_USD_PER_SECOND,
                               delta=2)
        self.assertEqual((self.cluster.pods, [pod.restarts for pod in pods]), (pods, [0] * 3))

    def test_what_a_pod_left_behind_is_not_lost(self):
        self.Ask()
        self.AwaitRequests(1)
        self.assertEqual({path.name for path in self.ledger.glob('usage-*.lock')},
                         {f'usage-{pod.name}.lock' for pod in self.cluster.PodsOf('facet-router')})
        # The pod of the worker ends before a router has confirmed one more record.
        record, = [json.loads(line) for path in self.ledger.glob('usage-*.jsonl')
                   for line in path.read_text().splitlines()]
        self.cluster.Delete(self.worker)
        self.worker.AwaitEnd()
        self.assertEqual(self.worker.exit_code, 0)
        with open(self.ledger / 'worker-e4b-0.jsonl', 'a') as journal:
            journal.write(json.dumps({**record, 'request_id': 'not-confirmed'}) + '\n')
        # So do all routers that were there.
        for router in self.cluster.PodsOf('facet-router'):
            self.cluster.Delete(router)
            router.AwaitEnd()
        for owner, index in (('Deployment', None), ('StatefulSet', 0)):
            self.cluster.Create(self.render.Find(owner), index)
        self.cluster.AwaitReady(self.cluster.pods)
        self.assertEqual(self.AwaitRequests(2)['device_ns'],
                         2 * (record['prefill_ns'] + record.get('decode_ns', 0)))


if __name__ == '__main__':
    unittest.main()
