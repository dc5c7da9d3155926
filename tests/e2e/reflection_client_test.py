"""A client written from reflection alone talks to both demo models. Budget: 15 s."""

import unittest

from grpc_health.v1 import health_pb2
from grpc_health.v1 import health_pb2_grpc

import cluster
import reflected


class ReflectionClientTest(unittest.TestCase):

    @classmethod
    def setUpClass(cls):
        cls.cluster = cluster.Cluster({cluster.E4B: 1, cluster.A4B: 1})
        cls.client = cls.cluster.client

    @classmethod
    def tearDownClass(cls):
        codes = cls.cluster.Stop()
        assert codes == [0, 0, 0], codes

    def test_the_server_names_its_services(self):
        self.assertIn('facet.v1.InferenceService', self.client.service_names)
        self.assertIn('grpc.health.v1.Health', self.client.service_names)

    def test_both_models_stream_an_answer(self):
        for model in (cluster.E4B, cluster.A4B):
            with self.subTest(model):
                request = self.client.ChatRequest(
                    model, 'What is the capital of France?', sampling={'temperature': 0},
                    client_request_id='mine')
                answer = reflected.Answer(self.client.Chat(request, timeout=30))
                self.assertEqual(answer.accepted.model, model)
                self.assertEqual(answer.accepted.client_request_id, 'mine')
                self.assertIn('/0', answer.accepted.worker)
                self.assertIn('Paris', answer.text)

    def test_a_long_answer_comes_in_pieces(self):
        # Long enough that a busy machine cannot gather it all into one message.
        deltas = []
        request = self.client.ChatRequest(cluster.E4B, 'Tell me a story.',
                                          sampling={'temperature': 0},
                                          limits={'new_tokens_max': 500, 'ignore_eos': True})
        answer = reflected.Answer(self.client.Chat(request, timeout=60),
                                  lambda so_far: deltas.append(len(so_far.token_ids)))
        self.assertEqual(len(answer.token_ids), 500)
        self.assertGreater(len(set(deltas)), 2, 'the answer came in one piece')

    def test_usage_adds_up(self):
        answer = self.cluster.Ask('Count from one to five.')
        usage = answer.finished.usage
        self.assertGreater(usage.prompt_tokens, 0)
        self.assertEqual(usage.completion_tokens, len(answer.token_ids))
        self.assertEqual(usage.thinking_tokens, 0)
        self.assertGreater(usage.prefill_device_ns, 0)
        self.assertGreater(usage.decode_device_ns, 0)
        # 3.6 USD an hour is 1,000 nano-USD for each millisecond; each step rounds once.
        device_ns = usage.prefill_device_ns + usage.decode_device_ns
        self.assertAlmostEqual(usage.cost_nano_usd, device_ns / 1000,
                               delta=2 * usage.completion_tokens + 2)
        self.assertAlmostEqual(usage.cost_usd, usage.cost_nano_usd / 1e9, places=12)
        self.assertLessEqual(usage.queue_ms, usage.ttft_ms)
        self.assertLessEqual(usage.ttft_ms, usage.total_ms)

    def test_a_thinking_answer_counts_its_thoughts(self):
        answer = self.cluster.Ask('Name the capital city of Japan.', enable_thinking=True,
                                  limits={'new_tokens_max': 200})
        self.assertNotEqual(answer.thought, '')
        self.assertGreater(answer.finished.usage.thinking_tokens, 0)
        self.assertLess(answer.finished.usage.thinking_tokens,
                        answer.finished.usage.completion_tokens)

    def test_ids_and_text_of_one_prompt_continue_alike(self):
        text = 'The capital of France is'
        for model in (cluster.E4B, cluster.A4B):
            ids = list(self.client.Tokenize(
                self.client.New('TokenizeRequest', model=model, text='<bos>' + text),
                timeout=5).ids)
            answers = []
            for prompt in ({'text': text}, {'ids': {'ids': ids}}):
                request = self.client.New(
                    'GenerateRequest', model=model, sampling={'temperature': 0},
                    limits={'new_tokens_max': 12, 'ignore_eos': True}, **prompt)
                answers.append(reflected.Answer(self.client.Generate(request, timeout=30)))
            self.assertEqual(answers[0].Said(), answers[1].Said())
            self.assertEqual(len(answers[0].token_ids), 12)
            self.assertEqual(
                self.client.EnumName('FinishReason', answers[0].finished.reason),
                'FINISH_REASON_LENGTH')

    def test_the_seed_that_was_drawn_gives_the_same_answer_again(self):
        sampling = {'temperature': 1.5}
        first = self.cluster.Ask('Tell me a story.', sampling=sampling)
        again = self.cluster.Ask('Tell me a story.',
                                 sampling={**sampling, 'seed': first.accepted.seed})
        self.assertEqual(first.Said(), again.Said())

    def test_the_models_are_listed_with_their_context(self):
        models = self.client.ListModels(self.client.New('ListModelsRequest'), timeout=5).models
        self.assertEqual({model.name for model in models}, {cluster.E4B, cluster.A4B})
        for model in models:
            self.assertEqual(model.workers_ready, 1)
            self.assertEqual(model.context_tokens_max, 4096)
            self.assertTrue(model.numerics_id.startswith('cpu/'), model.numerics_id)

    def test_the_status_shows_every_worker(self):
        self.cluster.Ask()
        status = self.client.GetStatus(self.client.New('GetStatusRequest'), timeout=5)
        self.assertEqual(status.cluster, 'e2e')
        self.assertGreater(status.uptime_seconds, 0)
        self.assertEqual({(worker.pool, worker.index) for worker in status.workers},
                         {('e4b', 0), ('26b', 0)})
        for worker in status.workers:
            # Whole blocks of what the config allows.
            self.assertGreater(worker.kv_bytes_total, 63 << 20)
            self.assertLessEqual(worker.kv_bytes_total, 64 << 20)
            self.assertAlmostEqual(worker.price_usd_per_hour, 3.6)

    def test_health_follows_the_services(self):
        health = health_pb2_grpc.HealthStub(self.client.channel)
        for service in ('', reflected.SERVICE, f'{reflected.SERVICE}/{cluster.E4B}'):
            reply = health.Check(health_pb2.HealthCheckRequest(service=service), timeout=5)
            self.assertEqual(reply.status, health_pb2.HealthCheckResponse.SERVING, service)


if __name__ == '__main__':
    unittest.main()
