"""Trains the demo models on the CPU and writes them in the published Gemma 4 layout.

Run: python3 deploy/demo/train.py facet-demo-e4b   (or facet-demo-26b)

The text comes from conversations.py and is drawn anew for every batch; only the answer's tokens
count in the loss. No conversation of eval.jsonl may come up: the script stops if one does.
"""

import argparse
import json
import math
import pathlib
import random
import re
import time

import safetensors.torch
import tokenizers
import torch
import transformers

import chat
import conversations
import tokenizer

DEMO_DIR = pathlib.Path(__file__).resolve().parent
MODELS_DIR = DEMO_DIR / 'models'
EOS_IDS = [1, 106, 50]
IGNORED = -100

TOKENIZER_DIALOGUES = 30000
POOL_DIALOGUES = 2048
CLIP_NORM = 1.0
WARMUP_STEPS = 100
BALANCE_WEIGHT = 0.01
LAYER_SCALAR = 0.875

ROPE = {
    'sliding_attention': {'rope_type': 'default', 'rope_theta': 10000.0},
    'full_attention': {'rope_type': 'proportional', 'rope_theta': 1000000.0,
                       'partial_rotary_factor': 0.25},
}
COMMON = {
    'attention_bias': False, 'attention_dropout': 0.0, 'bos_token_id': 2, 'dtype': 'bfloat16',
    'eos_token_id': 1, 'final_logit_softcapping': 30.0, 'global_head_dim': 64, 'head_dim': 32,
    'hidden_activation': 'gelu_pytorch_tanh', 'hidden_size': 128, 'initializer_range': 0.02,
    'max_position_embeddings': 4096, 'model_type': 'gemma4_text', 'num_attention_heads': 4,
    'num_key_value_heads': 2, 'pad_token_id': 0, 'rms_norm_eps': 1e-6, 'rope_parameters': ROPE,
    'sliding_window': 64, 'tie_word_embeddings': True, 'use_cache': True,
    'use_double_wide_mlp': False, 'vocab_size': tokenizer.VOCAB_SIZE,
    'vocab_size_per_layer_input': tokenizer.VOCAB_SIZE,
}
SHAPES = {
    'facet-demo-e4b': COMMON | {
        'attention_k_eq_v': False, 'enable_moe_block': False, 'hidden_size_per_layer_input': 32,
        'intermediate_size': 384, 'moe_intermediate_size': None, 'num_experts': None,
        'num_global_key_value_heads': None, 'num_kv_shared_layers': 2, 'top_k_experts': None,
        'layer_types': 'sfsfsf', 'use_bidirectional_attention': None},
    'facet-demo-26b': COMMON | {
        'attention_k_eq_v': True, 'enable_moe_block': True, 'hidden_size_per_layer_input': 0,
        'intermediate_size': 192, 'moe_intermediate_size': 64, 'num_experts': 16,
        'num_global_key_value_heads': 1, 'num_kv_shared_layers': 0, 'top_k_experts': 4,
        'layer_types': 'ssfsf', 'use_bidirectional_attention': 'vision'},
}


def IsLarge(name):
    """Tells whether a model follows the chat template of the 26B and 31B models."""
    return SHAPES[name]['enable_moe_block']


def Config(name):
    """Returns config.json in the published layout."""
    text = dict(SHAPES[name])
    pattern = text['layer_types']
    text['num_hidden_layers'] = len(pattern)
    text['layer_types'] = [
        {'s': 'sliding_attention', 'f': 'full_attention'}[kind] for kind in pattern]
    return {
        'architectures': ['Gemma4ForConditionalGeneration'], 'audio_config': None,
        'audio_token_id': 258881, 'boa_token_id': 256000, 'boi_token_id': 255999,
        'dtype': 'bfloat16', 'eoa_token_index': 258883, 'eoi_token_id': 258882,
        'eos_token_id': [1, 106], 'image_token_id': 258880, 'initializer_range': 0.02,
        'model_type': 'gemma4', 'text_config': text, 'tie_word_embeddings': True,
        'transformers_version': '5.5.0.dev0', 'video_token_id': 258884, 'vision_config': None,
        'vision_soft_tokens_per_image': 280}


def WriteJson(path, value):
    """Writes a value as indented JSON."""
    path.write_text(json.dumps(value, indent=2) + '\n')


def HeldOutKey(messages):
    """Returns what the user says in a conversation, without case and punctuation."""
    said = ' '.join(m['content'] for m in messages if m['role'] == 'user')
    return ' '.join(re.findall(r'[a-z0-9+-]+', said.lower()))


def HeldOut():
    """Returns the keys of all conversations of eval.jsonl."""
    lines = (DEMO_DIR / 'eval.jsonl').read_text().splitlines()
    return {HeldOutKey(json.loads(line)['messages']) for line in lines}


def _Targets(exchange, thinking):
    """Yields what the model is to produce in an exchange, with the token that ends its turn."""
    # After a tool result the prompt itself opens the channel.
    thought = f'{exchange.thought}\n<channel|>' if thinking else ''
    opened = f'<|channel>thought\n{thought}' if thinking else ''
    if exchange.call:
        yield f'{opened}{chat.ToolCall(*exchange.call)}<|tool_response>'
        opened = 'The tool has answered.\n<channel|>' if thinking else ''
    yield f'{opened}{exchange.answer}<turn|>'


def Segments(dialogue, large):
    """Renders a dialogue; yields lists of (text, is_target), one per sequence to learn.

    Without thinking one sequence teaches every turn of the model, because the prompt of a turn is a
    prefix of the prompts after it, up to the empty channel that the large template appends to the
    last. With thinking each turn is a sequence of its own: past thoughts are not rendered.
    """
    system, tools, thinking, exchanges = dialogue
    seen = [{'role': 'system', 'content': system}] if system else []
    sequence, rendered = [], ''
    for exchange in exchanges:
        messages = conversations.Messages(exchange)
        # The model speaks after the user and after the tool.
        for stop, target in zip(range(1, len(messages), 2), _Targets(exchange, thinking)):
            context = seen + messages[:stop]
            if thinking:
                yield [(chat.RenderPrompt(context, tools, True, large), False), (target, True)]
                continue
            prompt = chat.RenderPrompt(context, tools)
            last = exchange is exchanges[-1] and stop == len(messages) - 1
            stub = chat.RenderPrompt(context, tools, False, large)[len(prompt):] if last else ''
            assert prompt.startswith(rendered), (prompt, rendered)
            sequence += [(prompt[len(rendered):] + stub, False), (target, True)]
            rendered = prompt + target
        seen += messages
    if not thinking:
        yield sequence


def TokenizerTexts(rng):
    """Yields text to learn pieces from; names come up often enough to become single tokens."""
    lexicon = {*conversations.CAPITALS, *conversations.CITIES, *conversations.NAMES}
    for word in sorted(lexicon) * 60:
        yield f'{word} {word} {word.lower()}'
    for _ in range(TOKENIZER_DIALOGUES):
        for segments in Segments(conversations.Dialogue(rng), large=False):
            text = ''.join(text for text, _ in segments)
            yield re.sub(r'<\|?[a-z_"]+\|?>', '\n', text)


class Batches:
    """Draws conversations, renders them and packs those of similar length into batches."""

    def __init__(self, encoder, large, batch_tokens, rng):
        self._encoder = encoder
        self._large = large
        self._batch_tokens = batch_tokens
        self._rng = rng
        self._held_out = HeldOut()
        self._pending = []

    def _Draw(self):
        dialogue = conversations.Dialogue(self._rng)
        said = ' '.join(exchange.user for exchange in dialogue[3])
        assert HeldOutKey([{'role': 'user', 'content': said}]) not in self._held_out, said
        return Segments(dialogue, self._large)

    def _Refill(self):
        sequences = [s for _ in range(POOL_DIALOGUES) for s in self._Draw()]
        pieces = iter(self._encoder.encode_batch_fast(
            [text for sequence in sequences for text, _ in sequence]))
        rows = []
        for sequence in sequences:
            ids, labels = [], []
            for _, is_target in sequence:
                piece = next(pieces).ids
                ids += piece
                labels += piece if is_target else [IGNORED] * len(piece)
            rows.append((ids, labels))
        rows.sort(key=lambda row: len(row[0]))
        batch = []
        for row in rows:
            if (len(batch) + 1) * len(row[0]) > self._batch_tokens:
                self._pending.append(batch)
                batch = []
            batch.append(row)
        self._pending.append(batch)
        self._rng.shuffle(self._pending)

    def Next(self):
        """Returns ids [batch, length] and labels of the same shape, right-padded."""
        if not self._pending:
            self._Refill()
        batch = self._pending.pop()
        shape = len(batch), len(batch[-1][0])
        ids = torch.zeros(shape, dtype=torch.long)
        labels = torch.full(shape, IGNORED)
        for i, (row_ids, row_labels) in enumerate(batch):
            ids[i, :len(row_ids)] = torch.tensor(row_ids)
            labels[i, :len(row_labels)] = torch.tensor(row_labels)
        return ids, labels


@torch.no_grad()
def Initialize(model):
    """Starts from unit-scale activations: scores are not divided by sqrt(head_dim) anywhere."""
    for name, value in model.named_parameters():
        if name.endswith('q_norm.weight'):
            value.fill_(1.5 / math.sqrt(value.shape[0]))
        elif 'post_' in name:
            value.fill_(0.5)
        elif value.dim() > 1:
            torch.nn.init.normal_(value, std=1 / math.sqrt(value.shape[-1]))
    text = model.model.language_model
    if hasattr(text, 'embed_tokens_per_layer'):
        width = model.config.text_config.hidden_size_per_layer_input
        torch.nn.init.normal_(text.embed_tokens_per_layer.weight, std=1 / math.sqrt(width))
    for layer in text.layers:
        layer.layer_scalar.fill_(LAYER_SCALAR)


class RouterBalance:
    """Collects the load-balancing loss of all routers (Switch Transformers, equation 4)."""

    def __init__(self, model):
        self._losses = []
        for name, module in model.named_modules():
            if name.endswith('.router'):
                module.register_forward_hook(self._Hook)

    def _Hook(self, module, args, output):
        probabilities, _, experts = output
        num_experts = probabilities.shape[-1]
        share = torch.bincount(experts.flatten(), minlength=num_experts) / experts.numel()
        self._losses.append(num_experts * (share * probabilities.mean(0)).sum())

    def Take(self):
        """Returns the sum since the last call."""
        total = sum(self._losses) if self._losses else 0.0
        self._losses.clear()
        return total


def LearningRate(step, progress, peak):
    """A short warm-up, then a straight line to zero at progress 1."""
    return peak * min(1.0, (step + 1) / WARMUP_STEPS) * (1 - progress)


def Optimizer(model, peak):
    """AdamW; norms and scales are not decayed."""
    groups = [{'params': [p for p in model.parameters() if p.dim() > 1], 'weight_decay': 0.05},
              {'params': [p for p in model.parameters() if p.dim() <= 1], 'weight_decay': 0.0}]
    return torch.optim.AdamW(groups, lr=peak, betas=(0.9, 0.98))


def AnswerLogits(model, ids, labels):
    """Returns logits and targets of the positions that predict answer tokens."""
    hidden = model.model(input_ids=ids, use_cache=False).last_hidden_state[:, :-1]
    targets = labels[:, 1:]
    wanted = targets != IGNORED
    logits = model.lm_head(hidden[wanted]).float()
    cap = model.config.text_config.final_logit_softcapping
    return cap * torch.tanh(logits / cap), targets[wanted]


def Train(model, batches, args):
    """Trains for args.minutes and reports every 50 steps."""
    balance = RouterBalance(model)
    optimizer = Optimizer(model, args.peak)
    start, seen, step, progress = time.monotonic(), 0, 0, 0.0
    model.train()
    while progress < 1.0:
        for group in optimizer.param_groups:
            group['lr'] = LearningRate(step, progress, args.peak)
        ids, labels = batches.Next()
        logits, targets = AnswerLogits(model, ids, labels)
        loss = torch.nn.functional.cross_entropy(logits, targets)
        (loss + BALANCE_WEIGHT * balance.Take()).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), CLIP_NORM)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        seen += ids.numel()
        if step % 50 == 0:
            accuracy = (logits.argmax(-1) == targets).float().mean().item()
            seconds = time.monotonic() - start
            print(f'step {step} loss {loss.item():.4f} accuracy {accuracy:.4f} '
                  f'{seen / seconds:.0f} tokens/s {seconds:.0f} s', flush=True)
        step += 1
        if args.save_every and step % args.save_every == 0:
            Save(model, args.name)
        progress = (time.monotonic() - start) / (60 * args.minutes)
    print(f'{step} steps, {seen} tokens', flush=True)
    model.eval()


def Save(model, name):
    """Writes the weights in bf16 under their published names."""
    state = {key: value.detach().to(torch.bfloat16).contiguous()
             for key, value in model.state_dict().items() if key != 'lm_head.weight'}
    safetensors.torch.save_file(state, MODELS_DIR / name / 'model.safetensors', {'format': 'pt'})


def Prepare(name):
    """Writes the config files and the tokenizer."""
    directory = MODELS_DIR / name
    directory.mkdir(parents=True, exist_ok=True)
    WriteJson(directory / 'config.json', Config(name))
    WriteJson(directory / 'generation_config.json', {
        'bos_token_id': 2, 'do_sample': True, 'eos_token_id': EOS_IDS, 'pad_token_id': 0,
        'temperature': 1.0, 'top_k': 64, 'top_p': 0.95, 'transformers_version': '5.5.0.dev0'})
    tokenizer.Save(directory, TokenizerTexts(random.Random(7)))


def Main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('name', choices=SHAPES)
    parser.add_argument('--minutes', type=float, default=30)
    parser.add_argument('--peak', type=float, default=2e-3)
    parser.add_argument('--batch_tokens', type=int, default=2048)
    parser.add_argument('--seed', type=int, default=1)
    parser.add_argument('--save_every', type=int, default=0)
    parser.add_argument('--resume', action='store_true',
                        help='start from the weights and tokenizer on disk')
    args = parser.parse_args()
    torch.manual_seed(args.seed)
    directory = MODELS_DIR / args.name
    if args.resume:
        model = transformers.Gemma4ForConditionalGeneration.from_pretrained(
            directory, dtype=torch.float32, experts_implementation='eager')
    else:
        Prepare(args.name)
        config = transformers.AutoConfig.from_pretrained(directory)
        config.dtype = config.text_config.dtype = torch.float32
        model = transformers.Gemma4ForConditionalGeneration._from_config(
            config, dtype=torch.float32, experts_implementation='eager')
        Initialize(model)
    encoder = tokenizers.Tokenizer.from_file(str(directory / 'tokenizer.json'))
    print(f'{sum(p.numel() for p in model.parameters()):,} parameters', flush=True)
    batches = Batches(encoder, IsLarge(args.name), args.batch_tokens, random.Random(args.seed))
    Train(model, batches, args)
    Save(model, args.name)


if __name__ == '__main__':
    transformers.logging.set_verbosity_error()
    Main()
