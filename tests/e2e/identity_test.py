"""Who may ask and who may serve: tenants by API key, mutual TLS between router and workers.
Budget: 40 s.
"""

import concurrent.futures
import hashlib
import os
import pathlib
import re
import ssl
import subprocess
import tempfile
import time
import unittest

import openai

import cluster
import reflected

REVOKED_SECONDS_MAX = 2.0  # From the change of the file to the last request with an old key.
RENEWED_SECONDS_MAX = 20   # Files are looked at every ten.
QUESTION = [{'role': 'user', 'content': 'What is the capital of France?'}]


def Facet(*arguments, **environment):
    return subprocess.run([cluster.BIN / 'facet', *arguments], capture_output=True, text=True,
                          timeout=30, env={**os.environ, **environment})


def NewKey(tenant):
    """A key and its line of the tenants file, as the command prints them."""
    printed = Facet('keys', 'new', '--tenant', tenant).stdout
    key, = re.findall(r'^  (fk_\w+)$', printed, re.MULTILINE)
    line, = re.findall(r'^  (- \{.*\})$', printed, re.MULTILINE)
    return key, line


def Hash(key):
    return 'sha256:' + hashlib.sha256(key.encode()).hexdigest()


# Valid on the first of January 2020.
EXPIRED = """-----BEGIN CERTIFICATE-----
MIIBDDCBsgIBATAKBggqhkjOPQQDAjASMRAwDgYDVQQDDAdleHBpcmVkMB4XDTIw
MDEwMTAwMDAwMFoXDTIwMDEwMjAwMDAwMFowEjEQMA4GA1UEAwwHZXhwaXJlZDBZ
MBMGByqGSM49AgEGCCqGSM49AwEHA0IABLZBiDJoG6tt3gGo5X+pNtBuEHr0UO4D
HfpNvZXHNBa4eY6GjE0tKp2pyg0O32drrLV02AWiZk/4/JnIYtGZJwEwCgYIKoZI
zj0EAwIDSQAwRgIhALZN3yPKvDa25lvcZZnwEQfnsX0q+G12z28Z9TLDeVHJAiEA
7SP1RPioxR6GieekSbgXfFfejMPTuVjCopmCyweMvG0=
-----END CERTIFICATE-----
"""


class TenantsTest(unittest.TestCase):

    @classmethod
    def setUpClass(cls):
        cls.directory = tempfile.TemporaryDirectory(prefix='facet-e2e-')
        cls.file = pathlib.Path(cls.directory.name, 'tenants.yaml')
        (cls.acme, cls.acme_line), (cls.zeta, cls.zeta_line) = NewKey('acme'), NewKey('zeta')
        cls.unknown = 'fk_' + '0' * 64
        cls.keys = {cls.acme, cls.zeta, cls.unknown}  # What no log may hold.
        cls.WriteTenants(cls.acme_line, cls.zeta_line)
        cls.servers = cluster.Cluster({cluster.E4B: 1}, api_key=cls.acme,
                                      fields={'tenants_file': cls.file})

    @classmethod
    def tearDownClass(cls):
        codes = cls.servers.Stop()
        assert codes == [0, 0], codes
        for process in (cls.servers.router, cls.servers.workers[0].process):
            log = f'{process.events} {process.lines}'
            for key in cls.keys:
                assert key not in log and key[3:] not in log, f'a key is in the log of {process.name}'
        cls.directory.cleanup()

    @classmethod
    def WriteTenants(cls, *lines):
        """Replaced as a whole, as a mounted secret is."""
        fresh = cls.file.with_suffix('.new')
        fresh.write_text('tenants:\n' + '\n'.join(f'  {line}' for line in lines) + '\n')
        fresh.rename(cls.file)

    def OpenAi(self, key):
        client = openai.OpenAI(base_url=self.servers.http() + '/v1', api_key=key, max_retries=0,
                               timeout=30)
        self.addCleanup(client.close)
        return client

    def Client(self, key):
        client = self.servers.NewClient(api_key=key)
        self.addCleanup(client.Close)
        return client

    def CodeOf(self, key):
        """What a cheap call with this key gives."""
        client = self.Client(key)
        try:
            client.ListModels(client.New('ListModelsRequest'), timeout=5)
            return 'OK'
        except reflected.grpc.RpcError as error:
            return error.code().name

    def Tokens(self, tenant):
        return cluster.Sum(cluster.Scrape(self.servers.metrics_port), 'facet_tokens_total',
                           tenant=tenant)

    def StreamWhileValid(self, key):
        """Long streams, one after the other, until the key is refused; none may break.
        [(begin, end, tokens)]"""
        client = self.OpenAi(key)
        answers = []
        while True:
            begin = time.monotonic()
            try:
                *_, last = client.chat.completions.create(
                    model=cluster.E4B, messages=QUESTION, stream=True, max_tokens=1500,
                    temperature=2, stream_options={'include_usage': True},
                    extra_body={'ignore_eos': True})
            except openai.AuthenticationError:
                return answers
            answers.append((begin, time.monotonic(), last.usage.total_tokens))

    def test_each_tenants_requests_are_its_own(self):
        before = {tenant: self.Tokens(tenant) for tenant in ('acme', 'zeta', 'default')}
        answer = self.servers.Ask()
        completion = self.OpenAi(self.zeta).chat.completions.create(
            model=cluster.E4B, messages=QUESTION, temperature=0, max_tokens=8)
        told = {'acme': answer.finished.usage.prompt_tokens
                        + answer.finished.usage.completion_tokens,
                'zeta': completion.usage.total_tokens, 'default': 0}
        for tenant, tokens in told.items():
            self.assertEqual(self.Tokens(tenant) - before[tenant], tokens, tenant)
        worker = cluster.Scrape(self.servers.workers[0].metrics_port)
        for tenant in ('acme', 'zeta'):
            self.assertGreater(cluster.Sum(worker, 'facet_cost_usd_total', tenant=tenant), 0)

    def test_without_a_tenants_key_nothing_is_answered(self):
        def Refused():
            return cluster.Sum(cluster.Scrape(self.servers.metrics_port),
                               'facet_requests_unauthenticated_total')
        before = Refused()
        keyless = reflected.Client(f'127.0.0.1:{self.servers.grpc_port}')  # Reflection is open.
        self.addCleanup(keyless.Close)
        for client in (keyless, self.Client(self.unknown)):
            for call, request in (
                    (client.ListModels, 'ListModelsRequest'), (client.GetStatus, 'GetStatusRequest'),
                    (client.Tokenize, 'TokenizeRequest'), (client.Chat, 'ChatRequest'),
                    (client.Generate, 'GenerateRequest')):
                code, details = cluster.CodeOf(
                    lambda: list(call(client.New(request), timeout=5)))
                self.assertEqual(code, 'UNAUTHENTICATED', (request, details))
                self.assertNotIn(self.unknown, details)
        for ask in (lambda client: client.models.list(),
                    lambda client: client.chat.completions.create(model='none', messages=[]),
                    lambda client: client.chat.completions.create(
                        model=cluster.E4B, messages=QUESTION, stream=True)):
            with self.assertRaises(openai.AuthenticationError) as caught:
                ask(self.OpenAi(self.unknown))
            self.assertEqual(caught.exception.code, 'invalid_api_key')
            self.assertEqual(caught.exception.type, 'invalid_request_error')
            self.assertNotIn(self.unknown, str(caught.exception))
        self.assertEqual(Refused() - before, 2 * 5 + 3)

    def test_the_command_line_takes_its_key_from_the_environment(self):
        address = f'127.0.0.1:{self.servers.grpc_port}'
        done = Facet('status', '--address', address, FACET_API_KEY=self.zeta)
        self.assertEqual(done.returncode, 0, done.stderr)
        done = Facet('status', '--address', address, '--api-key', self.acme)
        self.assertEqual(done.returncode, 0, done.stderr)
        for key in ('', self.unknown):
            done = Facet('status', '--address', address, FACET_API_KEY=key)
            self.assertNotEqual(done.returncode, 0)
            self.assertIn('FACET_API_KEY', done.stderr)
            self.assertNotIn(self.unknown, done.stderr)

    def test_a_local_cluster_needs_a_key_to_be_watched(self):
        done = Facet('up', '--config', str(self.servers.router_config), FACET_API_KEY='')
        self.assertNotEqual(done.returncode, 0)
        self.assertIn('tenants_file', done.stderr)
        self.assertIn('set FACET_API_KEY', done.stderr)

    def test_a_key_is_replaced_while_the_router_serves(self):
        first, first_line = NewKey('turn')
        second, second_line = NewKey('turn')
        self.keys.update((first, second))
        both = first_line.replace(']', f', "{Hash(second)}"]')
        self.WriteTenants(self.acme_line, self.zeta_line, both)
        cluster.WaitFor(lambda: self.CodeOf(second) == 'OK', 'the new key works')
        self.assertEqual(self.CodeOf(first), 'OK')

        with concurrent.futures.ThreadPoolExecutor(3) as pool:
            streams = [pool.submit(self.StreamWhileValid, first) for _ in range(3)]
            cluster.WaitFor(lambda: cluster.Sum(cluster.Scrape(self.servers.metrics_port),
                                                'facet_requests_running') == 3, 'streams run')
            since = time.monotonic()
            self.WriteTenants(self.acme_line, self.zeta_line, second_line)
            cluster.WaitFor(lambda: self.CodeOf(first) == 'UNAUTHENTICATED', 'the old key is refused')
            refused = time.monotonic()
            self.assertLess(refused - since, REVOKED_SECONDS_MAX)
            self.assertEqual(self.CodeOf(second), 'OK')
            answers = [answer for stream in streams for answer in stream.result(30)]
        self.assertTrue(any(begin < refused < end for begin, end, _ in answers),
                        'no stream was under way')
        self.assertEqual(self.Tokens('turn'), sum(tokens for _, _, tokens in answers))

        # A broken file changes nothing, and the log says what is wrong with it.
        self.WriteTenants(self.acme_line, f'- {{name: turn, keys: [{first}]}}')
        event = self.servers.router.WaitForEvent('tenants file refused, the keys stay as they were')
        self.assertIn('tenants.yaml:3: tenants[1].keys[0] is no hash', event['cause'])
        self.assertEqual(self.CodeOf(second), 'OK')
        self.WriteTenants(self.acme_line, self.zeta_line)
        cluster.WaitFor(lambda: self.CodeOf(second) == 'UNAUTHENTICATED', 'the tenant is gone')


class Authority:
    """A CA and what it signs: PEM files in a directory, made by openssl."""

    def __init__(self, directory, name):
        self._directory = directory
        self._name = name
        self.file = directory / f'{name}.pem'
        self._key = directory / f'{name}.key'
        self._OpenSsl('req', '-x509', '-newkey', 'ec', '-pkeyopt', 'ec_paramgen_curve:P-256',
                      '-nodes', '-days', '2', '-subj', f'/CN={name}', '-keyout', self._key, '-out',
                      self.file)

    def _OpenSsl(self, *words):
        subprocess.run(['openssl', *words], check=True, capture_output=True, timeout=20)

    def Sign(self, name, subject_names):
        """Returns the certificate and the key of a process; again: a new certificate, the same key."""
        base = self._directory / f'{self._name}-{name}'
        certificate, key, request, extensions, fresh = (
            base.with_suffix(f'.{kind}') for kind in ('pem', 'key', 'csr', 'ext', 'new'))
        extensions.write_text(f'subjectAltName={subject_names}\n')
        if not key.exists():
            self._OpenSsl('req', '-newkey', 'ec', '-pkeyopt', 'ec_paramgen_curve:P-256', '-nodes',
                          '-subj', f'/CN={name}', '-keyout', key, '-out', request)
        self._OpenSsl('x509', '-req', '-in', request, '-CA', self.file, '-CAkey', self._key,
                      '-CAcreateserial', '-days', '2', '-extfile', extensions, '-out', fresh)
        fresh.rename(certificate)
        return certificate, key


def TlsFields(authority, pair, server_name=''):
    name = f', server_name: {server_name}' if server_name else ''
    return f'{{ca_file: {authority.file}, cert_file: {pair[0]}, key_file: {pair[1]}{name}}}'


class MutualTlsTest(unittest.TestCase):

    @classmethod
    def setUpClass(cls):
        cls.temporary = tempfile.TemporaryDirectory(prefix='facet-e2e-')
        directory = pathlib.Path(cls.temporary.name)
        cls.ours, cls.other = Authority(directory, 'ours'), Authority(directory, 'other')
        cls.names = 'IP:127.0.0.1,DNS:worker.facet.test'
        cls.pair = cls.ours.Sign('process', cls.names)
        cls.pair_of_other = cls.other.Sign('process', cls.names)
        cls.nameless = cls.ours.Sign('nameless', 'DNS:elsewhere.facet.test')
        cls.tls = TlsFields(cls.ours, cls.pair)
        cls.servers = cluster.Cluster(
            {cluster.E4B: 1}, ca_file=cls.ours.file, fields={'worker_tls': cls.tls},
            router={'tls': f'{{cert_file: {cls.pair[0]}, key_file: {cls.pair[1]}}}'})

    @classmethod
    def tearDownClass(cls):
        codes = cls.servers.Stop()
        assert codes == [0, 0], codes
        cls.temporary.cleanup()

    def Router(self, *replacements):
        """Another router for the same worker, in plain text to its own clients; its address."""
        text = re.sub(r'  tls: .*\n', '', self.servers.router_config.read_text())
        for old, new in replacements:
            self.assertIn(old, text)
            text = text.replace(old, new)
        config = pathlib.Path(self.temporary.name, 'another.yaml')
        config.write_text(text)
        router = cluster.Process('facet-router', '--config', str(config))
        self.addCleanup(router.Stop)
        return f'127.0.0.1:{router.WaitForEvent("router listens")["grpc_port"]}'

    def Status(self, address, words):
        """What `facet status` says once it says these words."""
        def Says():
            done = Facet('status', '--address', address)
            said = done.stdout + done.stderr
            return said if words in said else None
        return cluster.WaitFor(Says, f'facet status at {address} says {words}')

    def test_requests_go_through(self):
        self.assertIn('Paris', self.servers.Ask().text)
        address = f'127.0.0.1:{self.servers.grpc_port}'
        done = Facet('status', '--address', address, '--tls-ca', str(self.ours.file))
        self.assertEqual(done.returncode, 0, done.stderr)
        for flags in ((), ('--tls-ca', str(self.other.file))):
            done = Facet('status', '--address', address, *flags)
            self.assertNotEqual(done.returncode, 0)
            self.assertIn('no router answers', done.stderr)

    def test_a_name_can_stand_for_the_address(self):
        address = self.Router((self.tls, TlsFields(self.ours, self.pair, 'worker.facet.test')))
        done = Facet('status', '--address', address, '--wait', '10')
        self.assertEqual(done.returncode, 0, done.stdout + done.stderr)

    def test_a_worker_that_cannot_prove_itself_gets_no_request(self):
        for name, fields, words in (
                ('its CA is not ours', TlsFields(self.other, self.pair_of_other),
                 'certificate verify failed'),
                ('it has another name', TlsFields(self.ours, self.pair, 'someone.facet.test'),
                 'Hostname Verification Check failed')):
            with self.subTest(name):
                said = self.Status(self.Router((self.tls, fields)), words)
                self.assertIn('0 of 1 workers ready', said)

    def test_a_router_that_cannot_prove_itself_is_refused(self):
        tls = f'worker_tls: {self.tls}\n'
        for name, instead, words, cause in (
                ('its CA is not ours',
                 f'worker_tls: {TlsFields(self.ours, self.pair_of_other)}\n',
                 'the worker does not accept worker_tls.cert_file', 'certificate verify failed'),
                ('it speaks plain text', '',
                 'the worker wants TLS and this router has no worker_tls', 'wrong version number')):
            with self.subTest(name):
                said = self.Status(self.Router((tls, instead)), words)
                self.assertIn('0 of 1 workers ready', said)
                worker = self.servers.workers[0].process
                cluster.WaitFor(lambda: cause in str(worker.events), f'the worker says "{cause}"')

    def test_files_that_do_not_fit_are_named_at_start(self):
        text = self.servers.worker_config.read_text()
        missing = self.ours.file.with_name('missing.pem')
        expired = self.ours.file.with_name('expired.pem')
        expired.write_text(EXPIRED)
        for old, new, words in (
                (str(self.ours.file), str(missing), ('worker_tls.ca_file', 'missing.pem')),
                (f'key_file: {self.pair[1]}', f'key_file: {self.nameless[1]}',
                 ('worker_tls.key_file', 'is not the key of the certificate')),
                (f'cert_file: {self.pair[0]}', f'cert_file: {self.pair[1]}',
                 ('worker_tls.cert_file', 'holds no certificate')),
                (f'cert_file: {self.pair[0]}', f'cert_file: {expired}',
                 ('worker_tls.cert_file', 'has expired'))):
            config = pathlib.Path(self.temporary.name, 'bad.yaml')
            config.write_text(text.replace(old, new))
            for program in ('facet-worker', 'facet-router'):
                with self.subTest(program, words=words):
                    process = cluster.Process(program, '--config', str(config))
                    self.assertEqual(process.Wait(), 1)
                    said, = process.lines
                    for word in words:
                        self.assertIn(word, said)

    def test_metrics_tell_when_certificates_expire(self):
        wanted = {self.servers.metrics_port: {'worker_tls', 'router_tls'},
                  self.servers.workers[0].metrics_port: {'worker_tls'}}
        for port, uses in wanted.items():
            found = cluster.Scrape(port)['facet_certificate_expiry_timestamp_seconds']
            self.assertEqual({labels['use'] for labels, _ in found}, uses)
            for labels, expiry in found:  # Signed for two days.
                self.assertAlmostEqual(expiry - time.time(), 2 * 86400, delta=600, msg=labels)

    def test_a_renewed_certificate_needs_no_restart(self):
        port = self.servers.grpc_port
        before = ssl.get_server_certificate(('127.0.0.1', port))
        self.ours.Sign('process', self.names)
        cluster.WaitFor(lambda: ssl.get_server_certificate(('127.0.0.1', port)) != before,
                        'the router shows the new certificate', RENEWED_SECONDS_MAX)
        self.assertIn('Paris', self.servers.Ask().text)
        # The worker has it, too, and takes a router that comes with it.
        cluster.WaitFor(lambda: ssl.get_server_certificate(
            ('127.0.0.1', self.servers.workers[0].grpc_port)) != before,
                        'the worker shows the new certificate', RENEWED_SECONDS_MAX)
        done = Facet('status', '--address', self.Router(), '--wait', '10')
        self.assertEqual(done.returncode, 0, done.stdout + done.stderr)

    def test_beyond_loopback_plain_text_needs_permission(self):
        text = self.servers.worker_config.read_text().replace(f'worker_tls: {self.tls}\n', '')
        config = pathlib.Path(self.temporary.name, 'plain.yaml')
        config.write_text(text)
        process = cluster.Process('facet-worker', '--config', str(config), '--grpc-address',
                                  '0.0.0.0:0')
        self.assertEqual(process.Wait(), 1)
        self.assertIn('--grpc-address is 0.0.0.0:0, which is beyond loopback', process.lines[0])


if __name__ == '__main__':
    unittest.main()
