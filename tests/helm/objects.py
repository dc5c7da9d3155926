"""Reads rendered objects: pods, labels, ports, and the cluster config in them."""

import yaml

import helm

WORKLOADS = ('Deployment', 'StatefulSet', 'Job', 'Pod')


def Renders():
    """Name → what the chart gives, for every value set of ci/."""
    return helm.CiRenders().items()


def PodOf(workload):
    """Metadata and spec of the pods that a workload makes."""
    pod = workload if workload['kind'] == 'Pod' else workload['spec']['template']
    return pod['metadata'], pod['spec']


def Place(name, it):
    return f'{name}: {it["kind"]} {it["metadata"]["name"]}'


def Containers(spec):
    return spec.get('initContainers', []) + spec['containers']


def Matches(selector, labels):
    return all(labels.get(key) == value for key, value in selector.items())


def Probes(container):
    return {key: probe for key, probe in container.items() if key.endswith('Probe')}


def ConfigText(render):
    config, = [it for it in render.OfKind('ConfigMap') if 'cluster.yaml' in it['data']]
    return config['data']['cluster.yaml']


def Config(render):
    return yaml.safe_load(ConfigText(render))


def WorkersOf(render, stateful_set):
    pool_name = PodOf(stateful_set)[0]['labels']['facet-pool']
    return next(pool for pool in Config(render)['pools'] if pool['name'] == pool_name)['workers']


def Secrets(render):
    """Names of secrets that values name: all that exist."""
    values = next(helm.CiValues()[name] for name, it in Renders() if it is render)

    def Walk(node, key=''):
        if isinstance(node, dict):
            for name, child in node.items():
                yield from Walk(child, name)
        elif isinstance(node, list):
            for child in node:
                yield from Walk(child, key)
        elif key in ('existingSecret', 'tokenSecret', 'apiKeySecret'):
            yield node

    return set(Walk(values))


def Labels(render, component, pool=None):
    """Labels of the pods of a component, and of a pool if there is one."""
    for it in render.OfKind(*WORKLOADS):
        labels = PodOf(it)[0]['labels']
        if labels['app.kubernetes.io/component'] == component and pool in (None, labels.get('facet-pool')):
            return labels
    raise AssertionError(f'no pods of {component} {pool}')


def PortOf(address):
    return int(address.rpartition(':')[2])
