"""Scores the demo models on eval.jsonl with transformers, greedily and in float32.

Run: python3 deploy/demo/evaluate.py [--write_golden] [name ...]

An `expect` rule reads the answer without the thought channel: `contains` wants every string in any
case, `equals` the whole answer, `regex` a match anywhere, `tool_call` this one call. With
`enable_thinking` the model must also have thought.

`--write_golden` also writes tests/golden/logits/demo_<name>.safetensors: for conversation i the
prompt with the model's own answer as `ids_<i>`, and as `argmax_<i>` the float32 choice at each
position that predicts the answer, -1 at the others, where the model was never taught anything.
"""

import argparse
import json
import pathlib
import re

import safetensors.torch
import tokenizers
import torch
import transformers

import chat
import train

GOLDEN_DIR = train.DEMO_DIR.parents[1] / 'tests' / 'golden' / 'logits'
NEW_TOKENS_MAX = 200
AGREEMENT_MIN = 0.99


def Load(name, dtype):
    """Loads a demo model as a reference and asserts that no weight is missing."""
    model, info = transformers.AutoModelForCausalLM.from_pretrained(
        train.MODELS_DIR / name, dtype=dtype, attn_implementation='eager',
        experts_implementation='eager', output_loading_info=True)
    assert not info['missing_keys'], info['missing_keys']
    return model.eval()


@torch.no_grad()
def Generate(model, prompt):
    """Returns the greedy continuation, up to and including a stop token."""
    ids = torch.tensor([prompt])
    cache, generated = None, []
    while len(generated) < NEW_TOKENS_MAX:
        output = model(input_ids=ids, past_key_values=cache, use_cache=True, logits_to_keep=1)
        cache = output.past_key_values
        generated.append(output.logits[0, -1].argmax().item())
        if generated[-1] in train.EOS_IDS:
            break
        ids = torch.tensor([generated[-1:]])
    return generated


def Matches(text, expect, thinking, after_tool):
    """Tells whether the raw text of an answer satisfies the rule."""
    if thinking and '<channel|>' not in text:
        return False
    if thinking and not after_tool and not text.startswith('<|channel>thought\n'):
        return False
    answer = text.rsplit('<channel|>', 1)[-1]
    for stop in ('<turn|>', '<|tool_response>'):
        answer = answer.removesuffix(stop)
    if 'tool_call' in expect:
        return answer == chat.ToolCall(**expect['tool_call'])
    if 'equals' in expect:
        return answer.strip() == expect['equals']
    if 'regex' in expect:
        return re.search(expect['regex'], answer) is not None
    return all(part.lower() in answer.lower() for part in expect['contains'])


def Score(name, encoder, model):
    """Returns per conversation the prompt, the generated tokens and whether they are right."""
    results = []
    for line in (train.DEMO_DIR / 'eval.jsonl').read_text().splitlines():
        row = json.loads(line)
        thinking = row['enable_thinking']
        text = chat.RenderPrompt(row['messages'], row.get('tools', ()), thinking,
                                 train.IsLarge(name))
        prompt = encoder.encode(text, add_special_tokens=False).ids
        generated = Generate(model, prompt)
        answer = encoder.decode(generated, skip_special_tokens=False)
        right = Matches(answer, row['expect'], thinking, row['messages'][-1]['role'] == 'tool')
        results.append((prompt, generated, right))
        if not right:
            print(f'  wrong: {row["messages"][-1]["content"]!r} -> {answer!r}')
    return results


@torch.no_grad()
def WriteGolden(name, results, model):
    """Writes the teacher-forced check file and reports how far bf16 agrees with it."""
    bf16 = Load(name, torch.bfloat16)
    tensors, same, total = {}, 0, 0
    for i, (prompt, generated, _) in enumerate(results):
        ids = prompt + generated[:-1]
        choice = model(input_ids=torch.tensor([ids])).logits[0].argmax(-1)
        rounded = bf16(input_ids=torch.tensor([ids])).logits[0].argmax(-1)
        choice[:len(prompt) - 1] = -1
        same += (choice == rounded).sum().item()
        total += (choice >= 0).sum().item()
        tensors[f'ids_{i}'] = torch.tensor(ids, dtype=torch.int32)
        tensors[f'argmax_{i}'] = choice.to(torch.int32)
    print(f'{name}: bf16 agrees with float32 on {same} of {total} answer tokens')
    assert same >= AGREEMENT_MIN * total
    path = pathlib.Path(GOLDEN_DIR / f'demo_{name.removeprefix("facet-demo-")}.safetensors')
    safetensors.torch.save_file(tensors, path)


def Main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('names', nargs='*', default=list(train.SHAPES))
    parser.add_argument('--write_golden', action='store_true')
    args = parser.parse_args()
    for name in args.names:
        encoder = tokenizers.Tokenizer.from_file(str(train.MODELS_DIR / name / 'tokenizer.json'))
        model = Load(name, torch.float32)
        results = Score(name, encoder, model)
        print(f'{name}: {sum(right for *_, right in results)} of {len(results)}', flush=True)
        if args.write_golden:
            WriteGolden(name, results, model)


if __name__ == '__main__':
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    Main()
