"""Real router and worker processes on loopback for one test.

Workers start first; the router's config is then written with their ports. Every process is a child of this one, is ended by its own
id, and cannot outlive it. Waiting is bounded and polls; nothing sleeps for a fixed time.
"""

import atexit
import json
import os
import pathlib
import random
import secrets
import shutil
import signal
import socket
import subprocess
import tempfile
import threading
import time
import urllib.request

import grpc

import reflected

ROOT = pathlib.Path(__file__).resolve().parents[2]
BIN = pathlib.Path(os.environ.get('FACET_BIN', ROOT / 'build/dev/bin'))
MODELS = ROOT / 'deploy/demo/models'
E4B = 'facet-demo-e4b'
A4B = 'facet-demo-26b'
POOLS = {E4B: 'e4b', A4B: '26b'}
START_SECONDS_MAX = 30


def WaitFor(predicate, what, seconds=10):
    """Polls until the predicate is true and returns its value."""
    end = time.monotonic() + seconds
    while True:
        value = predicate()
        if value:
            return value
        if time.monotonic() > end:
            raise AssertionError(f'{what}: not within {seconds} s')
        time.sleep(0.02)


def FreePort():
    """A port that stays free while its worker is dead: the kernel gives none of these away."""
    while True:
        port = random.randrange(20000, 32000)
        with socket.socket() as probe:
            try:
                probe.bind(('127.0.0.1', port))
                return port
            except OSError:
                pass  # In use.


class Process:
    """One of our programs, its log and its exit."""

    _all = []

    def __init__(self, program, *flags, namespace=None):
        self.name = ' '.join([program, *flags])
        self.events = []  # JSON lines of the log.
        self.lines = []   # What else it writes to stderr.
        # The kernel ends the child if this process dies without saying goodbye. Not by preexec_fn:
        # that forks, and gRPC's threads and connections in this process do not survive a fork.
        inside = ['ip', 'netns', 'exec', namespace] if namespace else []
        self._child = subprocess.Popen(
            [*inside, 'setpriv', '--pdeathsig', 'KILL', BIN / program, *flags],
            stderr=subprocess.PIPE, stdout=subprocess.DEVNULL)
        self._reader = threading.Thread(target=self._Read, daemon=True)
        self._reader.start()
        Process._all.append(self)

    def _Read(self):
        for raw in self._child.stderr:
            line = raw.decode(errors='replace').rstrip('\n')
            try:
                self.events.append(json.loads(line))
            except ValueError:
                self.lines.append(line)

    def running(self):
        return self._child.poll() is None

    def pid(self):
        return self._child.pid

    def WaitForEvent(self, event, seconds=START_SECONDS_MAX):
        """Returns the first log line with this event."""
        def Find():
            found = [it for it in list(self.events) if it.get('event') == event]
            if not found and not self.running():
                raise AssertionError(
                    f'{self.name} ended before "{event}": {self.events} {self.lines}')
            return found
        return WaitFor(Find, f'{self.name} logs "{event}"', seconds)[0]

    def Signal(self, number):
        if self.running():
            self._child.send_signal(number)

    def Kill(self):
        self._child.kill()
        self.Wait()

    def Wait(self, seconds=15):
        """Returns the exit status, after everything it wrote has been read."""
        code = self._child.wait(seconds)
        self._reader.join(5)
        return code

    def Stop(self):
        """Ends it in order; returns the exit status."""
        self.Signal(signal.SIGTERM)
        return self.Wait()

    @classmethod
    def KillAll(cls):
        for process in cls._all:
            if process.running():
                process.Kill()


class Worker:
    """One worker process and where it listens."""

    def __init__(self, config_path, pool, index, grpc_port, metrics_port, host='127.0.0.1',
                 namespace=None):
        self.pool = pool
        self.index = index
        self.host = host
        self.namespace = namespace
        self.name = f'{pool}/{index}'
        self.process = Process('facet-worker', '--config', str(config_path), '--pool', pool,
                               '--index', str(index), '--grpc-address', f'{host}:{grpc_port}',
                               '--metrics-address', f'{host}:{metrics_port}', namespace=namespace)
        listens = self.process.WaitForEvent('worker listens')
        self.grpc_port = listens['grpc_port']
        self.metrics_port = listens['metrics_port']


class Cluster:
    """Workers for some models and one router, all ready once the constructor returns.

    models: how many workers of each model. pool and router: more fields of the config, as YAML text
    per key. ranks: the workers are the ranks of one expert-parallel group of so many, and spares.
    hosts: by worker, (address, network namespace) if not the loopback of this one.
    fields: more of the config's own. api_key and ca_file: of the client, if the router wants them.
    """

    def __init__(self, models, pool=None, router=None, ranks=0, hosts=None, fields=None,
                 api_key=None, ca_file=None):
        self.directory = pathlib.Path(tempfile.mkdtemp(prefix='facet-e2e-'))
        atexit.register(shutil.rmtree, self.directory, ignore_errors=True)
        self._models = models
        self._pool = {'threads': 1, 'kv_bytes': 64 << 20, 'price_usd_per_hour': 3.6, **(pool or {})}
        self._router = router or {}
        self._hosts = hosts or {}
        self._fields = fields or {}
        self._api_key = api_key
        self._ca_file = ca_file
        self.num_ranks = ranks
        if ranks > 0:
            os.environ.setdefault('FACET_GROUP_KEY', secrets.token_hex(16))
            self._pool['expert_group'] = (
                f'{{ranks: {ranks}, rendezvous_address: "{self._Host(0)[0]}:{FreePort()}"}}')
        self.worker_config = self.directory / 'workers.yaml'
        self.worker_config.write_text(self._Yaml({}))
        self.workers = [Worker(self.worker_config, POOLS[model], index, FreePort(), FreePort(),
                               *self._Host(index))
                        for model, count in models.items() for index in range(count)]
        for worker in self.workers[:ranks or None]:
            worker.process.WaitForEvent('worker ready')
        self.router_config = self.directory / 'router.yaml'
        self.router_config.write_text(
            self._Yaml({worker.name: worker.grpc_port for worker in self.workers}))
        self.StartRouter()

    def _Host(self, index):
        return self._hosts.get(index, ('127.0.0.1', None))

    def _Yaml(self, ports):
        text = 'name: e2e\n'
        for key, value in self._fields.items():
            text += f'{key}: {value}\n'
        text += 'router:\n'
        for key, value in {'grpc_address': '127.0.0.1:0', 'http_address': '127.0.0.1:0',
                           'metrics_address': '127.0.0.1:0', **self._router}.items():
            text += f'  {key}: {value}\n'
        text += 'models:\n'
        for model in self._models:
            text += f'  - {{name: {model}, directory: {MODELS / model}}}\n'
        text += 'pools:\n'
        for model, count in self._models.items():
            text += f'  - name: {POOLS[model]}\n    model: {model}\n'
            for key, value in self._pool.items():
                text += f'    {key}: {value}\n'
            text += '    workers:\n'
            for index in range(count):
                port = ports.get(f'{POOLS[model]}/{index}', 0)
                host = self._Host(index)[0]
                text += f'      - {{grpc_address: "{host}:{port}"}}\n'
        return text

    def StartRouter(self):
        self.router = Process('facet-router', '--config', str(self.router_config))
        listens = self.router.WaitForEvent('router listens')
        self.grpc_port = listens['grpc_port']
        self.http_port = listens['http_port']
        self.metrics_port = listens['metrics_port']
        self.client = self.NewClient()
        self.WaitReady()

    def WaitReady(self, count=None):
        """Returns once this many workers are ready; all of them if count is absent."""
        wanted = count
        if wanted is None:
            wanted = self.num_ranks or sum(self._models.values())
        def Ready():
            states = [self.client.EnumName('WorkerState', worker.state) for worker in
                      self.client.GetStatus(self.client.New('GetStatusRequest'), timeout=5).workers]
            return states.count('WORKER_STATE_READY') == wanted
        WaitFor(Ready, f'{wanted} workers are ready', START_SECONDS_MAX)

    def WorkerStatus(self, index):
        return self.client.GetStatus(self.client.New('GetStatusRequest'), timeout=5).workers[index]

    def WorkerState(self, index):
        return self.client.EnumName('WorkerState', self.WorkerStatus(index).state)

    def RestartWorker(self, index):
        """Starts the worker again where it was."""
        old = self.workers[index]
        self.workers[index] = Worker(self.worker_config, old.pool, old.index, old.grpc_port,
                                     old.metrics_port, old.host, old.namespace)

    def NewClient(self, options=(), api_key=None):
        return reflected.Client(f'127.0.0.1:{self.grpc_port}', options, api_key or self._api_key,
                                self._ca_file)

    def Ask(self, text='What is the capital of France?', model=None, **fields):
        """One greedy chat turn, whole."""
        fields.setdefault('sampling', {'temperature': 0})
        fields.setdefault('limits', {'new_tokens_max': 32})
        request = self.client.ChatRequest(model or next(iter(self._models)), text, **fields)
        return reflected.Answer(self.client.Chat(request, timeout=30))

    def Stop(self):
        """Ends everything in order; returns the exit statuses, the router's first."""
        self.client.Close()
        codes = [self.router.Stop()]
        for worker in self.workers:
            worker.process.Signal(signal.SIGTERM)
        return codes + [worker.process.Wait() for worker in self.workers]

    def http(self):
        return f'http://127.0.0.1:{self.http_port}'


def Scrape(port):
    """Returns a process's metrics: name → list of (labels, value)."""
    with urllib.request.urlopen(f'http://127.0.0.1:{port}/metrics', timeout=5) as reply:
        text = reply.read().decode()
    metrics = {}
    for line in text.splitlines():
        if not line or line.startswith('#'):
            continue
        series, value = line.rsplit(' ', 1)
        name, _, rest = series.partition('{')
        labels = {}
        for part in filter(None, rest.rstrip('}').split('",')):
            key, _, label = part.partition('="')
            labels[key.strip()] = label.rstrip('"')
        metrics.setdefault(name, []).append((labels, float(value)))
    return metrics


def Sum(metrics, name, **wanted):
    """The sum of the series whose labels have these values."""
    return sum(value for labels, value in metrics.get(name, ())
               if all(labels.get(key) == label for key, label in wanted.items()))


def KvUsed(worker):
    return Sum(Scrape(worker.metrics_port), 'facet_kv_used_bytes')


def CodeOf(call):
    """Runs a call that must fail; returns its gRPC code and message."""
    try:
        call()
    except grpc.RpcError as error:
        return error.code().name, error.details()
    raise AssertionError('the call succeeded')


atexit.register(Process.KillAll)
