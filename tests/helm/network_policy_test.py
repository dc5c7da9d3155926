"""Network policies admit each flow that the rendered config needs, and not its contrary. Budget: 30 s."""

import ipaddress
import unittest

from objects import Config, Labels, Matches, PortOf, Renders


class NetworkPolicyTest(unittest.TestCase):

    def setUp(self):
        self.renders = [(name, render) for name, render in Renders()
                        if render.OfKind('NetworkPolicy')]
        self.assertGreater(len(self.renders), 10)

    def test_each_flow_is_admitted(self):
        for name, render in self.renders:
            config = Config(render)
            router = Labels(render, 'router')
            for pool in config['pools']:
                worker = Labels(render, 'worker', pool['name'])
                address = pool['workers'][0]
                self.Admits(name, render, router, worker, PortOf(address['grpc_address']))
                self.Admits(name, render, 'monitoring', worker, PortOf(address['metrics_address']))
                self.Refuses(name, render, 'apps', worker, PortOf(address['grpc_address']))
                if 'expert_group' in pool:
                    for port in (PortOf(pool['expert_group']['rendezvous_address']), 41234):
                        self.Admits(name, render, worker, worker, port)
                else:
                    self.Refuses(name, render, worker, worker, 41234)
                for other in config['pools']:
                    if other != pool:
                        self.Refuses(name, render, Labels(render, 'worker', other['name']), worker,
                                     PortOf(address['grpc_address']))
            for key in ('grpc_address', 'http_address'):
                if config['router'][key] != 'off':
                    self.Admits(name, render, 'apps', router, PortOf(config['router'][key]))
            self.Admits(name, render, 'monitoring', router,
                        PortOf(config['router']['metrics_address']))
            self.Admits(name, render, Labels(render, 'test'), router,
                        PortOf(config['router']['grpc_address']))
            for component in ('router', 'worker', 'test'):
                self.Admits(name, render, Labels(render, component), 'kube-system', 53)
                self.Refuses(name, render, Labels(render, component), ipaddress.ip_address('8.8.8.8'),
                             443)

    def test_the_hub_is_reached_from_the_job_alone(self):
        for name, render in self.renders:
            if render.OfKind('Job'):
                hub = ipaddress.ip_address('10.1.2.3')
                self.Admits(name, render, Labels(render, 'download'), hub, 443)
                self.Admits(name, render, Labels(render, 'download'), 'kube-system', 53)

    def Admits(self, name, render, source, target, port):
        self.assertTrue(Admitted(render, source, target, port), (name, source, target, port))

    def Refuses(self, name, render, source, target, port):
        self.assertFalse(Admitted(render, source, target, port), (name, source, target, port))


def Admitted(render, source, target, port):
    """Whether the policies let a connection through. Ends are the labels of a pod of this release, the
    name of another namespace, or an IP address.
    """
    policies = render.OfKind('NetworkPolicy')

    def OneSide(own, other, direction, key):
        if not isinstance(own, dict):
            return True  # Not ours to limit.
        applied = [policy['spec'] for policy in policies
                   if direction in policy['spec']['policyTypes']
                   and Matches(policy['spec']['podSelector']['matchLabels'], own)]
        return not applied or any(
            any(it['port'] == port for it in rule['ports']) if 'ports' in rule else True
            for spec in applied for rule in spec.get(direction.lower(), [])
            if key not in rule or any(PeerIs(peer, other) for peer in rule[key]))

    return (OneSide(source, target, 'Egress', 'to') and OneSide(target, source, 'Ingress', 'from'))


def PeerIs(peer, end):
    if isinstance(end, dict):
        return 'namespaceSelector' not in peer and 'podSelector' in peer and Matches(
            peer['podSelector']['matchLabels'], end)
    if isinstance(end, str):
        labels = peer.get('namespaceSelector', {}).get('matchLabels')
        return labels is not None and (labels.get('kubernetes.io/metadata.name') == end
                                       or (end, labels.get('team')) == ('apps', 'apps'))
    return 'ipBlock' in peer and end in ipaddress.ip_network(peer['ipBlock']['cidr'])


if __name__ == '__main__':
    unittest.main()
