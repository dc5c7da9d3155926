"""The `facet` program against real servers: what a user types, sees and gets as status. Budget: 15 s."""

import json
import socket
import subprocess
import unittest

import cluster


class CliTest(unittest.TestCase):

    @classmethod
    def setUpClass(cls):
        cls.servers = cluster.Cluster({cluster.E4B: 1, cluster.A4B: 1})
        cls.address = f'127.0.0.1:{cls.servers.grpc_port}'

    @classmethod
    def tearDownClass(cls):
        codes = cls.servers.Stop()
        assert codes == [0, 0, 0], codes

    def Facet(self, *arguments, text='', address=None):
        return subprocess.run(
            [cluster.BIN / 'facet', *arguments, '--address', address or self.address],
            input=text, capture_output=True, text=True, timeout=30)

    def Fails(self, words, *arguments, **how):
        done = self.Facet(*arguments, **how)
        self.assertGreater(done.returncode, 0, done.stdout)
        self.assertEqual(len(done.stderr.strip().splitlines()), 1, done.stderr)
        for word in words:
            self.assertIn(word, done.stderr)

    def test_generate_prints_the_answer_alone(self):
        done = self.Facet('generate', '--model', cluster.E4B, '--temperature', '0', '--prompt',
                          'What is the capital of France?')
        self.assertEqual((done.returncode, done.stderr), (0, ''))
        self.assertEqual(done.stdout.strip(), self.servers.Ask().text)

    def test_generate_as_json_has_tokens_usage_and_seed(self):
        arguments = ('generate', '--model', cluster.A4B, '--prompt', '-', '--json', '--max-tokens',
                     '20', '--temperature', '1.5', '--seed', '7')
        first, again = (json.loads(self.Facet(*arguments, text='Tell me a story.').stdout)
                        for _ in range(2))
        self.assertEqual(first['token_ids'], again['token_ids'])
        self.assertEqual(first['seed'], 7)
        self.assertEqual(first['usage']['completion_tokens'], len(first['token_ids']))
        self.assertGreater(first['usage']['cost_usd'], 0)
        self.assertGreater(first['timing']['ttft_ms'], 0)

    def test_chat_remembers_the_turns_before(self):
        done = self.Facet('chat', '--model', cluster.E4B, '--temperature', '0',
                          text='My name is Emma.\nWhat is my name?\n')
        self.assertEqual(done.returncode, 0, done.stderr)
        answers = done.stdout.strip().splitlines()
        self.assertEqual(len(answers), 2)
        self.assertIn('Emma', answers[1])
        figures = done.stderr.strip().splitlines()
        self.assertTrue(all(line.startswith('TTFT') for line in figures), figures)
        self.assertEqual(len(figures), 2)

    def test_status_shows_every_worker(self):
        done = self.Facet('status', '--wait', '5')
        self.assertEqual(done.returncode, 0, done.stderr)
        for word in ('e4b/0', '26b/0', 'ready', cluster.A4B):
            self.assertIn(word, done.stdout)
        status = json.loads(self.Facet('status', '--json').stdout)
        self.assertEqual(status['cluster'], 'e2e')
        self.assertEqual(len(status['workers']), 2)

    def test_what_is_wrong_is_one_sentence_and_a_status(self):
        self.Fails(('gpt-99', cluster.E4B), 'chat', '--model', 'gpt-99', text='Hi\n')
        self.Fails(('gpt-99', cluster.E4B), 'generate', '--model', 'gpt-99', '--prompt', 'Hi')
        self.Fails(('temperature', '9', '2'), 'generate', '--model', cluster.E4B, '--prompt', 'Hi',
                   '--temperature', '9')
        self.Fails(('empty',), 'generate', '--raw', '--model', cluster.E4B, '--prompt', '')

    def test_without_a_router_the_address_is_named(self):
        with socket.socket() as unused:
            unused.bind(('127.0.0.1', 0))  # Bound but not listening: nobody answers.
            address = f'127.0.0.1:{unused.getsockname()[1]}'
            for arguments in (('status',), ('chat',), ('generate', '--prompt', 'Hi'),
                              ('status', '--wait', '1')):
                with self.subTest(arguments[0]):
                    self.Fails((address,), *arguments, address=address, text='Hi\n')


if __name__ == '__main__':
    unittest.main()
