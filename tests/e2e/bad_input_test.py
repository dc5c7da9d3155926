"""What is wrong is refused in one sentence that names it, and everything else goes on. Budget: 40 s.

Two tables: processes that cannot start, and requests that a running cluster refuses.
"""

import http.client
import json
import pathlib
import shutil
import socket
import struct
import tempfile
import unittest

import grpc

import cluster
import reflected

CONTEXT = 4096


class StartTest(unittest.TestCase):
    """A process that cannot work says why and exits non-zero, at once."""

    def setUp(self):
        self.directory = pathlib.Path(tempfile.mkdtemp(prefix='facet-e2e-'))
        self.addCleanup(shutil.rmtree, self.directory)
        self.model = self.directory / 'model'
        shutil.copytree(cluster.MODELS / cluster.E4B, self.model)
        self.yaml = f'''
name: bad
router: {{grpc_address: "127.0.0.1:0", http_address: "127.0.0.1:0", metrics_address: "off"}}
models:
  - {{name: it, directory: {self.model}}}
pools:
  - name: p
    model: it
    threads: 1
    kv_bytes: 67108864
    workers:
      - {{grpc_address: "127.0.0.1:0"}}
'''

    def Refusal(self, program, *flags):
        """Starts the program, which must end; returns its one sentence."""
        config = self.directory / 'cluster.yaml'
        config.write_text(self.yaml)
        process = cluster.Process(program, '--config', str(config), *flags)
        code = process.Wait(20)
        self.assertNotEqual(code, 0)
        self.assertGreater(code, 0, f'{program} died of signal {-code}: {process.lines}')
        self.assertEqual(len(process.lines), 1, process.lines)
        self.assertTrue(process.lines[0].startswith(f'{program}: '), process.lines[0])
        return process.lines[0]

    def EditConfig(self, **fields):
        path = self.model / 'config.json'
        config = json.loads(path.read_text())
        config['text_config'].update(fields)
        path.write_text(json.dumps(config))

    def EditWeights(self, edit):
        path = self.model / 'model.safetensors'
        path.write_bytes(edit(path.read_bytes()))

    def test_the_unchanged_files_are_fine(self):
        config = self.directory / 'cluster.yaml'
        config.write_text(self.yaml)
        process = cluster.Process('facet-worker', '--config', str(config))
        process.WaitForEvent('worker ready')
        self.assertEqual(process.Stop(), 0)

    def test_damaged_models_are_refused_by_name(self):
        def Huge(data):
            return struct.pack('<Q', 1 << 60) + data[8:]
        def Garbled(data):
            return data[:8] + b'{' + b'x' * 50 + data[59:]
        def Reshaped(data):
            # Another shape of the same length in the header.
            return data.replace(b'"shape":[2048,128]', b'"shape":[1024,256]', 1)
        rows = (
            ('weights missing', lambda: (self.model / 'model.safetensors').unlink(),
             ('model.safetensors',)),
            ('weights empty', lambda: self.EditWeights(lambda data: b''), ('model.safetensors', '0')),
            ('weights cut', lambda: self.EditWeights(lambda data: data[:-1000]),
             ('model.safetensors', 'byte')),
            ('header cut', lambda: self.EditWeights(lambda data: data[:100]),
             ('model.safetensors', 'header')),
            ('header huge', lambda: self.EditWeights(Huge), ('model.safetensors', 'header length')),
            ('header garbled', lambda: self.EditWeights(Garbled), ('model.safetensors', 'header')),
            ('tensor reshaped', lambda: self.EditWeights(Reshaped), ('tensor', 'shape')),
            ('config missing', lambda: (self.model / 'config.json').unlink(), ('config.json',)),
            ('config no JSON', lambda: (self.model / 'config.json').write_text('{'),
             ('config.json',)),
            ('config of another width', lambda: self.EditConfig(hidden_size=192),
             ('shape', '192')),
            ('config of more layers', lambda: self.EditConfig(num_hidden_layers=7),
             ('num_hidden_layers', '7')),
            ('no heads', lambda: self.EditConfig(num_attention_heads=0),
             ('num_attention_heads', '0')),
            ('heads that do not divide', lambda: self.EditConfig(num_key_value_heads=3),
             ('num_attention_heads is 4', '3 KV heads')),
            ('negative window', lambda: self.EditConfig(sliding_window=-1),
             ('sliding_window', '-1')),
            ('huge vocab', lambda: self.EditConfig(vocab_size=1 << 40), ('vocab_size',)),
            ('text as a number', lambda: self.EditConfig(hidden_size='wide'), ('hidden_size',)),
        )
        for name, damage, words in rows:
            with self.subTest(name):
                shutil.rmtree(self.model)
                shutil.copytree(cluster.MODELS / cluster.E4B, self.model)
                damage()
                sentence = self.Refusal('facet-worker')
                for word in words:
                    self.assertIn(word, sentence)

    def test_a_router_refuses_files_that_do_not_fit(self):
        tokenizer = self.model / 'tokenizer.json'
        rows = (
            ('tokenizer no JSON', lambda: tokenizer.write_text('{'), ('tokenizer.json',)),
            ('tokenizer of no kind', lambda: tokenizer.write_text('{"model": {"type": "Unigram"}}'),
             ('tokenizer.json',)),
            ('tokenizer larger than the model', lambda: self.EditConfig(vocab_size=1024),
             ('tokenizer.json', '2048', '1024')),
            ('no config', lambda: (self.model / 'config.json').unlink(), ('config.json',)),
        )
        for name, damage, words in rows:
            with self.subTest(name):
                shutil.rmtree(self.model)
                shutil.copytree(cluster.MODELS / cluster.E4B, self.model)
                damage()
                sentence = self.Refusal('facet-router')
                for word in words:
                    self.assertIn(word, sentence)

    def test_cluster_files_and_flags_are_refused_by_name(self):
        good = self.yaml
        rows = (
            # Program, what is replaced by what in the YAML, flags, words.
            ('facet-worker', 'threads: 1', 'treads: 1', (), ('treads', 'not known', 'threads')),
            ('facet-router', 'name: bad', 'nam: bad', (), ('nam', 'not known', 'cluster.yaml:2')),
            ('facet-worker', 'threads: 1', 'threads: many', (), ('threads', 'many', '1024')),
            ('facet-worker', 'threads: 1', 'threads: 5000', (), ('threads', '5000', '1024')),
            ('facet-worker', 'kv_bytes: 67108864', 'kv_bytes: -1', (), ('kv_bytes', '-1')),
            ('facet-worker', 'kv_bytes: 67108864', 'kv_bytes: 1', (), ('kv_bytes', '1')),
            ('facet-worker', 'threads: 1', 'cpu_tier: avx9', (), ('cpu_tier', 'avx9', 'avx512')),
            ('facet-worker', 'threads: 1', 'kernels: quick', (), ('kernels', 'quick', 'fast')),
            ('facet-worker', 'threads: 1', 'ple_on_host: true', (), ('ple_on_host', 'CUDA')),
            ('facet-worker', 'threads: 1', 'dtype: int3', (), ('dtype', 'int3', 'bf16')),
            ('facet-worker', 'threads: 1', 'device: tpu', (), ('device', 'tpu', 'cpu')),
            ('facet-worker', 'workers:\n      - {',
             'device: "cuda:0"\n    workers:\n      - {device: "cuda:99", ', (), ('device', 'cuda:99')),
            ('facet-worker', '', '', ('--device', 'tpu'), ('device', 'tpu')),
            ('facet-worker', '', '', ('--device', 'cuda:99'), ('device', 'cuda:99')),
            ('facet-worker', '', '', ('--pool', 'nowhere'), ('pool', 'nowhere', 'p')),
            ('facet-worker', '', '', ('--index', '7'), ('index', '7', '1')),
            ('facet-worker', 'model: it', 'model: that', (), ('model', 'that')),
            ('facet-worker', 'threads: 1', 'context_tokens_max: 262145', (),
             ('context_tokens_max', '262145', '262144')),
            ('facet-worker', 'kv_bytes: 67108864', 'kv_bytes: 200000\n    context_tokens_max: 4096',
             (), ('kv_bytes',)),
            ('facet-router', 'workers:', 'workers: []\n    name2:', (), ('name2', 'not known')),
            ('facet-router', '"127.0.0.1:0", http', '"nowhere", http', (),
             ('grpc_address', 'nowhere', 'host:port')),
            ('facet-router', '- {name: it', '- {name: "a b"', (), ('name', 'a b')),
            ('facet-router', 'pools:', 'pools: {', (), ('cluster.yaml',)),
        )
        for program, old, new, flags, words in rows:
            with self.subTest(f'{program} {new} {flags}'):
                self.assertIn(old, good)
                self.yaml = good.replace(old, new, 1) if old else good
                sentence = self.Refusal(program, *flags)
                for word in words:
                    self.assertIn(word, sentence)

    def test_a_config_that_is_not_there_is_named(self):
        for program in ('facet-router', 'facet-worker'):
            process = cluster.Process(program, '--config', '/nowhere/cluster.yaml')
            self.assertGreater(process.Wait(), 0)
            self.assertIn('/nowhere/cluster.yaml', ' '.join(process.lines))

    def test_a_port_in_use_is_named(self):
        with socket.create_server(('127.0.0.1', 0)) as taken:
            address = f'127.0.0.1:{taken.getsockname()[1]}'
            for program, flag in (('facet-worker', '--grpc-address'),
                                  ('facet-worker', '--metrics-address'),
                                  ('facet-router', '--grpc-address'),
                                  ('facet-router', '--http-address'),
                                  ('facet-router', '--metrics-address')):
                with self.subTest(f'{program} {flag}'):
                    self.assertIn(address, self.Refusal(program, flag, address))


class RequestTest(unittest.TestCase):
    """A running cluster refuses a request by field, value and bound, and goes on."""

    @classmethod
    def setUpClass(cls):
        cls.servers = cluster.Cluster({cluster.E4B: 1},
                                      router={'message_bytes_max': 1 << 20})
        cls.client = cls.servers.NewClient()
        cls.good = cls.servers.Ask().Said()

    @classmethod
    def tearDownClass(cls):
        cls.client.Close()
        codes = cls.servers.Stop()
        assert codes == [0, 0], codes

    def tearDown(self):
        self.assertEqual(self.servers.Ask().Said(), self.good)

    def Refused(self, method, request, code, words, timeout=10):
        got, details = cluster.CodeOf(
            lambda: list(getattr(self.client, method)(request, timeout=timeout)))
        self.assertEqual(got, code, details)
        for word in words:
            self.assertIn(word, details)
        self.assertEqual(self.servers.Ask().Said(), self.good, 'the next request suffered')

    def test_chat_fields(self):
        new = self.client.New
        user = {'role': 'user', 'content': 'Hi'}
        nan, infinity = float('nan'), float('inf')
        rows = [
            (dict(model='gpt-99'), 'NOT_FOUND', ('gpt-99', cluster.E4B)),
            (dict(messages=[]), 'INVALID_ARGUMENT', ('messages', 'empty', 'at least 1')),
            (dict(messages=[{'role': 'robot', 'content': 'Hi'}]), 'INVALID_ARGUMENT',
             ('messages[0].role', 'robot')),
            (dict(messages=[{'role': 'user'}]), 'INVALID_ARGUMENT',
             ('messages[0].content', 'missing')),
            (dict(messages=[{'role': 'user', 'content': 'word ' * 20000}]), 'INVALID_ARGUMENT',
             ('prompt', str(CONTEXT - 1))),
            (dict(messages=[user] * 1025), 'INVALID_ARGUMENT', ('messages', '1025', '1024')),
            (dict(tools=[{'name': f't{i}'} for i in range(129)]), 'INVALID_ARGUMENT',
             ('tools', '129', '128')),
            (dict(logprobs=21), 'INVALID_ARGUMENT', ('logprobs', '21', '20')),
            (dict(logprobs=-1), 'INVALID_ARGUMENT', ('logprobs', '-1', '0')),
            (dict(client_request_id='x' * 129), 'INVALID_ARGUMENT',
             ('client_request_id', '129', '128')),
        ]
        for field, value, bound in (
                ('temperature', -0.5, '0'), ('temperature', 2.5, '2'), ('temperature', nan, '2'),
                ('temperature', infinity, '2'), ('top_k', -1, '0'), ('top_p', 0, '0'),
                ('top_p', 1.5, '1'), ('top_p', nan, '1'), ('min_p', -0.5, '0'), ('min_p', 1.5, '1'),
                ('presence_penalty', -2.5, '-2'), ('presence_penalty', 2.5, '2'),
                ('frequency_penalty', -2.5, '-2'), ('frequency_penalty', 2.5, '2'),
                ('repetition_penalty', 0, '0'), ('repetition_penalty', 2.5, '2')):
            shown = f'{value:g}'
            rows.append((dict(sampling={field: value}), 'INVALID_ARGUMENT',
                         (f'sampling.{field}', shown, bound)))
        rows += [
            (dict(sampling={'logit_bias': {5000: 1.0}}), 'INVALID_ARGUMENT',
             ('logit_bias', '5000', '2047')),
            (dict(sampling={'logit_bias': {5: 101.0}}), 'INVALID_ARGUMENT',
             ('logit_bias', '101', '100')),
            (dict(sampling={'logit_bias': {i: 1.0 for i in range(301)}}), 'INVALID_ARGUMENT',
             ('logit_bias', '301', '300')),
            (dict(limits={'new_tokens_max': 0}), 'INVALID_ARGUMENT',
             ('new_tokens_max', '0', 'at least 1')),
            (dict(limits={'new_tokens_max': 5000}), 'INVALID_ARGUMENT',
             ('new_tokens_max', '5000', 'at most')),
            (dict(limits={'new_tokens_min': -1}), 'INVALID_ARGUMENT', ('new_tokens_min', '-1', '0')),
            (dict(limits={'new_tokens_max': 5, 'new_tokens_min': 6}), 'INVALID_ARGUMENT',
             ('new_tokens_min', '6', '5')),
            (dict(limits={'stop': ['x'] * 17}), 'INVALID_ARGUMENT', ('stop', '17', '16')),
            (dict(limits={'stop': ['']}), 'INVALID_ARGUMENT', ('stop', '0', '256')),
            (dict(limits={'stop': ['x' * 257]}), 'INVALID_ARGUMENT', ('stop', '257', '256')),
            (dict(limits={'stop_token_ids': [2048]}), 'INVALID_ARGUMENT',
             ('stop_token_ids', '2048', '2047')),
            (dict(limits={'stop_token_ids': [5] * 65}), 'INVALID_ARGUMENT',
             ('stop_token_ids', '65', '64')),
        ]
        for fields, code, words in rows:
            with self.subTest(str(fields)[:80]):
                request = new('ChatRequest', **{'model': cluster.E4B, 'messages': [user], **fields})
                self.Refused('Chat', request, code, words)

    def test_generate_prompts(self):
        for fields, words in (
                ({'text': ''}, ('text', 'empty', 'at least one')),
                ({}, ('text', 'empty')),
                ({'ids': {'ids': []}}, ('ids', 'empty', 'at least one')),
                ({'ids': {'ids': [2, -1]}}, ('ids[1]', '-1', '2047')),
                ({'ids': {'ids': [2048]}}, ('ids[0]', '2048', '2047')),
                ({'ids': {'ids': [2] * CONTEXT}}, ('prompt', str(CONTEXT), str(CONTEXT - 1)))):
            with self.subTest(str(fields)[:60]):
                request = self.client.New('GenerateRequest', model=cluster.E4B, **fields)
                self.Refused('Generate', request, 'INVALID_ARGUMENT', words)

    def Raw(self, method, data):
        """Sends bytes that no protobuf library would write."""
        call = self.client.channel.unary_stream(f'/{reflected.SERVICE}/{method}')
        return cluster.CodeOf(lambda: list(call(data, timeout=10)))

    def test_bytes_that_are_no_message(self):
        bad_utf8 = b'\x0a' + bytes([len(cluster.E4B)]) + cluster.E4B.encode() + b'\x12\x02\xff\xfe'
        for data in (bad_utf8, b'\xff' * 40, b'\x12\xff\xff\xff\xff\x0f'):
            code, _ = self.Raw('Generate', data)
            # gRPC answers before our code is asked; which of these depends on its version.
            self.assertIn(code, ('INVALID_ARGUMENT', 'INTERNAL', 'UNIMPLEMENTED'))
        code, details = self.Raw('Nothing', b'')
        self.assertEqual(code, 'UNIMPLEMENTED', details)

    def test_a_message_that_is_too_large(self):
        request = self.client.New('GenerateRequest', model=cluster.E4B, text='x' * (2 << 20))
        self.Refused('Generate', request, 'RESOURCE_EXHAUSTED', (str(1 << 20),))

    def test_a_deadline_in_the_past(self):
        request = self.client.ChatRequest(cluster.E4B, 'Hi')
        for timeout in (0, -1):
            self.Refused('Chat', request, 'DEADLINE_EXCEEDED', (), timeout)

    def Post(self, body, headers=None, path='/v1/chat/completions', method='POST'):
        """Returns status and error object of one HTTP request on a connection of its own."""
        connection = http.client.HTTPConnection('127.0.0.1', self.servers.http_port, timeout=10)
        try:
            connection.request(method, path, body,
                               {'Content-Type': 'application/json', **(headers or {})})
            reply = connection.getresponse()
            return reply.status, json.loads(reply.read())['error']
        finally:
            connection.close()

    def test_http_bodies(self):
        user = [{'role': 'user', 'content': 'Hi'}]
        def Body(**fields):
            return json.dumps({'model': cluster.E4B, 'messages': user, **fields})
        for body, status, param, words in (
                ('', 400, None, ('JSON',)),
                ('{', 400, None, ('JSON',)),
                ('[]', 400, None, ('object',)),
                ('null', 400, None, ('object',)),
                ('[' * 100000, 400, None, ('JSON',)),
                (b'\xff\xfe', 400, None, ('JSON',)),
                (b'{"model": "' + cluster.E4B.encode() + b'", "messages": [{"role": "user", '
                 b'"content": "\xff"}]}', 400, None, ()),
                (Body() + 'x', 400, None, ('JSON',)),
                (Body(temperature='hot'), 400, 'temperature', ('number',)),
                (Body(temperature=1e300), 400, 'temperature', ('2',)),
                (Body(max_tokens=1.5), 400, 'max_tokens', ('integer',)),
                (Body(max_tokens=10**30), 400, 'max_tokens', ()),
                (Body(max_tokens=100000), 400, 'max_completion_tokens', ('100000', 'at most')),
                (Body(stop=['x'] * 17), 400, 'stop', ('17', '16')),
                (Body(stop='x' * 257), 400, 'stop', ('257', '256')),
                (Body(stop=5), 400, 'stop', ('string',)),
                (Body(logit_bias={'x': 1}), 400, 'logit_bias', ('x',)),
                (Body(logit_bias={'5': 101}), 400, 'logit_bias', ('101', '100')),
                (Body(messages='Hi'), 400, 'messages', ('array',)),
                (Body(messages=[{'role': 'user', 'content': 'word ' * 20000}]), 400, 'messages',
                 (str(CONTEXT - 1),)),
                (Body(tools=[{'type': 'function'}]), 400, 'tools[0]', ('tools[0]',)),
                (Body(top_logprobs=3), 400, 'top_logprobs', ('logprobs',)),
                (Body(seed='x'), 400, 'seed', ('integer',)),
                (Body(stream='yes'), 400, 'stream', ('true or false',)),
                (Body(padding='x' * (2 << 20)), 413, None, (str(1 << 20),))):
            with self.subTest(body[:70] if body else 'empty'):
                got, error = self.Post(body)
                self.assertEqual(got, status, error)
                if param is not None:
                    self.assertEqual(error['param'], param)
                for word in words:
                    self.assertIn(word, error['message'])
                self.assertEqual(self.servers.Ask().Said(), self.good)

    def test_http_requests(self):
        self.assertEqual(self.Post('', path='/v1/nothing')[0], 404)
        self.assertEqual(self.Post('', method='DELETE')[0], 405)
        self.assertEqual(self.Post('{}', headers={'X-Filler': 'x' * 100_000})[0], 431)

    def test_bytes_that_are_no_http(self):
        for data in (b'\x00' * 100, b'GET\r\n\r\n', b'POST /v1/chat/completions HTTP/1.1\r\n'
                     b'Content-Length: -5\r\n\r\n', b'PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n'):
            with socket.create_connection(('127.0.0.1', self.servers.http_port), 5) as connection:
                connection.sendall(data)
                connection.shutdown(socket.SHUT_WR)
                while connection.recv(4096):
                    pass
        # One that stops half-way does not hold the others up.
        with socket.create_connection(('127.0.0.1', self.servers.http_port), 5) as connection:
            connection.sendall(b'POST /v1/chat/completions HTTP/1.1\r\nContent-Length: 50\r\n\r\n{')
            self.assertEqual(self.Post('{')[0], 400)

    def test_bytes_that_are_no_grpc(self):
        with socket.create_connection(('127.0.0.1', self.servers.grpc_port), 5) as connection:
            connection.sendall(b'GET / HTTP/1.1\r\n\r\n' + b'\x00' * 1000)


if __name__ == '__main__':
    unittest.main()
