"""The unmodified OpenAI client talks to the HTTP front. Budget: 15 s."""

import time
import unittest

import openai

import cluster

QUESTION = [{'role': 'user', 'content': 'What is the capital of France?'}]


class OpenAiClientTest(unittest.TestCase):

    @classmethod
    def setUpClass(cls):
        cls.cluster = cluster.Cluster({cluster.E4B: 1, cluster.A4B: 1})
        cls.client = openai.OpenAI(base_url=cls.cluster.http() + '/v1', api_key='none',
                                   max_retries=0, timeout=30)

    @classmethod
    def tearDownClass(cls):
        cls.client.close()
        codes = cls.cluster.Stop()
        assert codes == [0, 0, 0], codes

    def Complete(self, **fields):
        return self.client.chat.completions.create(
            **{'model': cluster.E4B, 'messages': QUESTION, 'temperature': 0, 'max_tokens': 32,
               **fields})

    def Text(self, **fields):
        return self.Complete(**fields).choices[0].message.content

    def test_models_are_listed_and_found(self):
        self.assertEqual({model.id for model in self.client.models.list()},
                         {cluster.E4B, cluster.A4B})
        self.assertEqual(self.client.models.retrieve(cluster.E4B).id, cluster.E4B)
        with self.assertRaises(openai.NotFoundError):
            self.client.models.retrieve('nobody')

    def test_both_models_complete(self):
        for model in (cluster.E4B, cluster.A4B):
            completion = self.Complete(model=model)
            self.assertEqual(completion.model, model)
            self.assertIn('Paris', completion.choices[0].message.content)
            self.assertEqual(completion.choices[0].finish_reason, 'stop')
            self.assertEqual(completion.usage.total_tokens,
                             completion.usage.prompt_tokens + completion.usage.completion_tokens)

    def test_a_stream_says_what_the_whole_answer_says(self):
        for model in (cluster.E4B, cluster.A4B):
            whole = self.Complete(model=model)
            text, usages, finish = '', [], []
            for chunk in self.Complete(model=model, stream=True,
                                       stream_options={'include_usage': True}):
                if chunk.usage is not None:
                    self.assertEqual(chunk.choices, [])
                    usages.append(chunk.usage)
                for choice in chunk.choices:
                    text += choice.delta.content or ''
                    finish += [choice.finish_reason] if choice.finish_reason else []
            self.assertEqual(text, whole.choices[0].message.content)
            self.assertEqual(finish, ['stop'])
            self.assertEqual([(usage.prompt_tokens, usage.completion_tokens) for usage in usages],
                             [(whole.usage.prompt_tokens, whole.usage.completion_tokens)])

    def test_a_long_answer_arrives_in_pieces(self):
        # Tokens that are ready together share a chunk, so their number says nothing; that the first
        # chunk comes before the last token exists does.
        first, last, pieces = None, None, 0
        for chunk in self.Complete(stream=True, temperature=2, top_p=1, seed=7, max_tokens=400,
                                   messages=[{'role': 'user', 'content': 'Tell me a story.'}]):
            if chunk.choices and chunk.choices[0].delta.content:
                last = time.monotonic()
                first = first or last
                pieces += 1
        self.assertGreater(pieces, 1)
        self.assertGreater(last, first)

    def test_a_stream_without_include_usage_has_none(self):
        self.assertEqual([chunk.usage for chunk in self.Complete(stream=True) if chunk.usage], [])

    def test_a_seed_gives_the_same_answer_and_another_seed_another(self):
        texts = [self.Text(messages=[{'role': 'user', 'content': 'Tell me a story.'}],
                           temperature=2, top_p=1, seed=seed, max_tokens=48)
                 for seed in (7, 7, 8)]
        self.assertEqual(texts[0], texts[1])
        self.assertNotEqual(texts[0], texts[2])

    def test_a_stop_string_ends_the_answer_before_it(self):
        whole = self.Text()
        self.assertIn('Paris', whole)
        for stop in ('Paris', ['nothing of the kind', 'Par']):
            completion = self.Complete(stop=stop)
            self.assertEqual(completion.choices[0].message.content,
                             whole[:whole.index('Par')])
            self.assertEqual(completion.choices[0].finish_reason, 'stop')

    def test_max_tokens_ends_with_length(self):
        for name in ('max_tokens', 'max_completion_tokens'):
            completion = self.Complete(**{'max_tokens': openai.omit, name: 3})
            self.assertEqual(completion.choices[0].finish_reason, 'length')
            self.assertEqual(completion.usage.completion_tokens, 3)

    def test_logprobs_come_with_bytes(self):
        content = self.Complete(logprobs=True, top_logprobs=2).choices[0].logprobs.content
        for token in content:
            self.assertLessEqual(token.logprob, 0)
            self.assertAlmostEqual(token.logprob, token.top_logprobs[0].logprob, places=5)
        text = b''.join(bytes(token.bytes or []) for token in content).decode()
        self.assertIn('Paris', text)

    def test_a_tool_is_called(self):
        tool = {'type': 'function', 'function': {
            'name': 'get_weather', 'description': 'The current weather in a city',
            'parameters': {'type': 'object', 'properties': {'city': {'type': 'string'}},
                           'required': ['city']}}}
        choice = self.Complete(
            messages=[{'role': 'user', 'content': 'What is the weather in Paris?'}], tools=[tool],
            max_tokens=64).choices[0]
        self.assertEqual(choice.finish_reason, 'tool_calls')
        self.assertEqual(choice.message.tool_calls[0].function.name, 'get_weather')
        self.assertIn('Paris', choice.message.tool_calls[0].function.arguments)

    def test_what_is_wrong_is_refused_by_name(self):
        for name, fields, error_class, param, words in (
                ('unknown parameter', {'extra_body': {'best_of_breed': 3}},
                 openai.BadRequestError, 'best_of_breed', 'not a parameter'),
                ('parameter not served', {'n': 2}, openai.BadRequestError, 'n', 'not served'),
                ('unknown model', {'model': 'gpt-99'},
                 openai.NotFoundError, 'model', 'gpt-99'),
                ('temperature', {'temperature': 3},
                 openai.BadRequestError, 'temperature', 'is 3; it must be from 0 to 2'),
                ('top_p', {'top_p': 0}, openai.BadRequestError, 'top_p', 'above 0'),
                ('max_tokens', {'max_tokens': 0},
                 openai.BadRequestError, 'max_tokens', 'at least 1'),
                ('no messages', {'messages': []}, openai.BadRequestError, 'messages', 'empty')):
            for stream in (False, True):
                with self.subTest(name, stream=stream):
                    with self.assertRaises(error_class) as caught:
                        self.Complete(stream=stream, **fields)
                    self.assertEqual(caught.exception.param, param)
                    self.assertIn(words, caught.exception.message)
        self.assertIn('Paris', self.Text())


if __name__ == '__main__':
    unittest.main()
