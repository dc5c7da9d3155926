"""The demo models answer paraphrases they never saw, through the real servers. Budget: 60 s.

Each line of deploy/demo/eval.jsonl is a conversation with a rule for its answer: `contains` wants
every string in any case, `equals` the whole answer, `regex` a match, `tool_call` this one call. With
`enable_thinking` the model must also have thought.
"""

import json
import re
import sys
import unittest

import cluster
import reflected

RIGHT_MIN = 40
NEW_TOKENS_MAX = 200


def ToMessage(message):
    """An OpenAI message as the fields of facet.v1.Message."""
    fields = {key: message[key] for key in ('role', 'content', 'tool_call_id', 'name', 'reasoning')
              if message.get(key) is not None}
    calls = message.get('tool_calls', ())
    if calls:
        fields['tool_calls'] = [
            {'id': call.get('id', ''), 'name': call['function']['name'],
             'arguments_json': ToJson(call['function']['arguments'])} for call in calls]
    return fields


def ToJson(arguments):
    return arguments if isinstance(arguments, str) else json.dumps(arguments)


def ToTool(client, tool):
    """An OpenAI tool as facet.v1.Tool."""
    function = tool['function']
    result = client.New('Tool', description=function.get('description', ''))
    result.name = function['name']
    result.parameters.update(function.get('parameters', {}))
    return result


def IsRight(row, answer):
    expect = row['expect']
    if row['enable_thinking'] and answer.thought == '':
        return False
    if 'tool_call' in expect:
        wanted = expect['tool_call']
        return [(call.name, json.loads(call.arguments_json)) for call in answer.tool_calls] == [
            (wanted['name'], wanted['arguments'])]
    if 'equals' in expect:
        return answer.text.strip() == expect['equals']
    if 'regex' in expect:
        return re.search(expect['regex'], answer.text) is not None
    return all(part.lower() in answer.text.lower() for part in expect['contains'])


class DemoEvalTest(unittest.TestCase):

    @classmethod
    def setUpClass(cls):
        cls.servers = cluster.Cluster({cluster.E4B: 1, cluster.A4B: 1})
        cls.rows = [json.loads(line) for line in
                    (cluster.ROOT / 'deploy/demo/eval.jsonl').read_text().splitlines()]

    @classmethod
    def tearDownClass(cls):
        codes = cls.servers.Stop()
        assert codes == [0, 0, 0], codes

    def Score(self, model):
        client = self.servers.client
        right = 0
        for row in self.rows:
            request = client.New(
                'ChatRequest', model=model,
                messages=[ToMessage(message) for message in row['messages']],
                tools=[ToTool(client, tool) for tool in row.get('tools', ())],
                enable_thinking=row['enable_thinking'], sampling={'temperature': 0},
                limits={'new_tokens_max': NEW_TOKENS_MAX})
            answer = reflected.Answer(client.Chat(request, timeout=30))
            if IsRight(row, answer):
                right += 1
            else:
                calls = [(call.name, call.arguments_json) for call in answer.tool_calls]
                print(f'  wrong: {row["messages"][-1]["content"]!r} -> {answer.text!r} {calls or ""}',
                      file=sys.stderr)
        print(f'{model}: {right} of {len(self.rows)}', file=sys.stderr)
        self.assertEqual(len(self.rows), 50)
        self.assertGreaterEqual(right, RIGHT_MIN)

    def test_the_e4b_demo_is_mostly_right(self):
        self.Score(cluster.E4B)

    def test_the_26b_demo_is_mostly_right(self):
        self.Score(cluster.A4B)


if __name__ == '__main__':
    unittest.main()
