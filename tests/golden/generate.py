"""Writes small random Gemma 4 checkpoints and the logits transformers computes from them.

Each checkpoint has the layout of the published files (or, where `Case.layout` says so, of files
that transformers saved again), every feature of its shape switched on, and values that make
mistakes visible: no norm weight is 1, every layer_scalar differs from 1, the window is shorter
than the prompt, and some branches are so small that the epsilon of the norm after them counts.

The reference is transformers in float32 with eager attention and eager experts, loaded from the
directory that was written. A prompt is kept only if no router choice and no greedy choice in it is
close to a tie, so that a correct engine cannot fail by rounding.

Run: python3 tests/golden/generate.py
"""

import contextlib
import dataclasses
import json
import math
import pathlib
import shutil

import safetensors.torch
import torch
import transformers

GOLDEN_DIR = pathlib.Path(__file__).resolve().parent
MODELS_DIR = GOLDEN_DIR / 'models'
LOGITS_DIR = GOLDEN_DIR / 'logits'

VOCAB = 512
EOS_IDS = (1, 106, 50)
# Placeholder ids lie inside the vocabulary, so that embedding one as itself would go unnoticed by
# a bounds check but not by the logits.
PLACEHOLDER_IDS = {'image_token_id': 500, 'audio_token_id': 501, 'video_token_id': 504}
BOUNDARY_IDS = {
    'boi_token_id': 498, 'eoi_token_id': 502, 'boa_token_id': 499, 'eoa_token_index': 503}

PROMPT_TOKENS = 90
GREEDY_TOKENS = 64
LONG_PROMPT_TOKENS = 2000
LONG_LOGIT_ROWS = 64

ROUTER_GAP_MIN = 1e-4   # log(p_k / p_{k+1}) of the last chosen and the first rejected expert.
GREEDY_GAP_MIN = 2e-3   # Between the two largest logits, after the soft-cap.
GREEDY_DISTINCT_MIN = 8
NOISE_MAX = 1e-4        # Float32 against float64 on the short prompt.
PROMPT_ATTEMPTS = 60

SMALL_BRANCH = 0.005    # Factors on branches whose size an RMSNorm would otherwise take back.
SMALL_CONTEXT = 0.02


@dataclasses.dataclass(frozen=True)
class Case:
    """One checkpoint: its shape, how it is stored, and how its random weights are scaled."""

    name: str
    seed: int
    notes: str
    text: dict
    layout: str = 'published'      # published | resaved | flat
    num_shards: int = 1
    shared_kv_garbage: bool = False
    branch_norm: float = 0.7       # Centre of the norms that close a residual branch.
    long_prompt: bool = False
    placeholder_prompt: bool = False


def Rope(sliding_theta=10000.0, full_theta=1000000.0, partial=0.25):
    """Returns rope_parameters in the published form."""
    return {
        'sliding_attention': {'rope_type': 'default', 'rope_theta': sliding_theta},
        'full_attention': {'rope_type': 'proportional', 'rope_theta': full_theta,
                           'partial_rotary_factor': partial},
    }


def Layers(pattern):
    """Expands a pattern like 'sssf' into layer_types."""
    return [{'s': 'sliding_attention', 'f': 'full_attention'}[c] for c in pattern]


def Text(pattern, **overrides):
    """Returns a text_config with every key the published files carry."""
    config = {
        'attention_bias': False, 'attention_dropout': 0.0, 'attention_k_eq_v': False,
        'bos_token_id': 2, 'dtype': 'bfloat16', 'enable_moe_block': False, 'eos_token_id': 1,
        'final_logit_softcapping': 30.0, 'global_head_dim': 64, 'head_dim': 32,
        'hidden_activation': 'gelu_pytorch_tanh', 'hidden_size': 96,
        'hidden_size_per_layer_input': 0, 'initializer_range': 0.02, 'intermediate_size': 96,
        'layer_types': Layers(pattern), 'max_position_embeddings': 131072,
        'model_type': 'gemma4_text', 'moe_intermediate_size': None, 'num_attention_heads': 4,
        'num_experts': None, 'num_global_key_value_heads': None, 'num_hidden_layers': len(pattern),
        'num_key_value_heads': 2, 'num_kv_shared_layers': 0, 'pad_token_id': 0,
        'rms_norm_eps': 1e-6, 'rope_parameters': Rope(), 'sliding_window': 24,
        'tie_word_embeddings': True, 'top_k_experts': None, 'use_bidirectional_attention': None,
        'use_cache': True, 'use_double_wide_mlp': False, 'vocab_size': VOCAB,
        'vocab_size_per_layer_input': VOCAB,
    }
    assert not overrides.keys() - config.keys()
    return config | overrides


CASES = (
    Case('e2b', seed=11, text=Text(
             'ssssfssssf', num_key_value_heads=1, hidden_size_per_layer_input=16,
             num_kv_shared_layers=4, use_double_wide_mlp=True, sliding_window=16),
         branch_norm=0.6, shared_kv_garbage=True,
         notes='PLE, shared KV (donors 5 and 4), double-wide MLP; the file holds k and v of the '
               'shared layers, filled with garbage'),
    Case('e4b', seed=12, text=Text(
             'sssssfsssssf', hidden_size_per_layer_input=24, num_kv_shared_layers=4,
             rms_norm_eps=1e-5, final_logit_softcapping=12.0,
             rope_parameters=Rope(5000.0, 200000.0, 0.5)),
         branch_norm=0.5, long_prompt=True, placeholder_prompt=True,
         notes='PLE, shared KV (donors 7 and 5, not adjacent), no k and v of shared layers in the '
               'file; eps, soft-cap, rope thetas and partial_rotary_factor are not the published '
               'values'),
    Case('moe', seed=13, num_shards=3, text=Text(
             'sssssf', attention_k_eq_v=True, num_global_key_value_heads=1, enable_moe_block=True,
             num_experts=16, top_k_experts=4, moe_intermediate_size=16,
             use_bidirectional_attention='vision', final_logit_softcapping=20.0,
             max_position_embeddings=262144),
         notes='26B-A4B: dense path and 16 experts, top 4, K = V on the full layer, 2 KV heads on '
               'sliding layers and 1 on full ones; three shards'),
    Case('dense31', seed=14, text=Text(
             'sssf', hidden_size=64, attention_k_eq_v=True, num_global_key_value_heads=1,
             head_dim=256, global_head_dim=512, use_bidirectional_attention='vision',
             max_position_embeddings=262144),
         long_prompt=True,
         notes='31B: K = V on the full layer, real head dimensions 256 and 512'),
    Case('e4b_heads', seed=15, text=Text(
             'sfsf', hidden_size=80, hidden_size_per_layer_input=16, num_kv_shared_layers=2,
             num_attention_heads=2, num_key_value_heads=1, head_dim=256, global_head_dim=512,
             sliding_window=20),
         notes='E4B with the real head dimensions 256 and 512'),
    Case('resaved', seed=16, layout='resaved', text=Text(
             'sssssfsssssf', hidden_size=48, intermediate_size=64, head_dim=16, global_head_dim=32,
             attention_k_eq_v=True, num_global_key_value_heads=1),
         notes='31B shape as transformers saves it again: per_layer_config, layer keys padded '
               'to two digits, no global_head_dim'),
    Case('flat', seed=18, layout='flat', text=Text(
             'ssfsf', hidden_size=48, intermediate_size=64, head_dim=16, global_head_dim=32,
             hidden_size_per_layer_input=16, num_kv_shared_layers=2),
         notes='E4B shape saved as Gemma4ForCausalLM: flat config, names without language_model'),
)


def Config(case):
    """Returns config.json of a case in the published layout."""
    return {
        'architectures': ['Gemma4ForConditionalGeneration'], 'audio_config': None,
        'dtype': 'bfloat16', 'eos_token_id': [1, 106], 'initializer_range': 0.02,
        'model_type': 'gemma4', 'text_config': case.text, 'tie_word_embeddings': True,
        'transformers_version': '5.5.0.dev0', 'vision_config': None,
        'vision_soft_tokens_per_image': 280,
    } | PLACEHOLDER_IDS | BOUNDARY_IDS


def RandomTensor(name, shape, case, generator):
    """Returns the random bfloat16 values of one tensor, scaled by the role its name tells."""
    hidden = case.text['hidden_size']
    parts = name.split('.')
    layer = int(parts[parts.index('layers') + 1]) if 'layers' in parts else -1
    role = parts[-1] if parts[-1] != 'weight' else parts[-2]
    small = SMALL_BRANCH if layer % 3 == 1 else 1.0

    def Near(centre, spread=0.15):
        return centre * (1 + spread * torch.randn(shape, generator=generator))

    def Normal(std):
        return std * torch.randn(shape, generator=generator)

    if role == 'layer_scalar':
        value = 0.55 + 0.4 * torch.rand(shape, generator=generator)
    elif role == 'per_expert_scale':
        value = 0.5 + torch.rand(shape, generator=generator)
    elif role == 'q_norm':
        # Scores are not divided by sqrt(head_dim): the norm has to shrink with it.
        value = Near(1.1 / math.sqrt(shape[0]))
    elif role == 'norm':
        value = Near(6.5)
    elif role in ('post_attention_layernorm', 'post_feedforward_layernorm',
                  'post_per_layer_input_norm'):
        value = Near(case.branch_norm)
    elif role.endswith('norm') or 'layernorm' in role or (parts[-2:] == ['router', 'scale']):
        value = Near(1.1)
    elif role == 'embed_tokens':
        value = Normal(0.35 / math.sqrt(hidden))
    elif role == 'embed_tokens_per_layer':
        value = Normal(1 / math.sqrt(case.text['hidden_size_per_layer_input']))
    elif parts[-3:-1] == ['router', 'proj']:
        value = Normal(1.6)
    else:
        value = Normal(1 / math.sqrt(shape[-1]))
        if role == 'per_layer_model_projection':
            value *= SMALL_CONTEXT
        elif role == 'per_layer_projection' or parts[-2:] == ['experts', 'down_proj']:
            value *= small
    return value.to(torch.bfloat16)


def GarbageSharedKv(case, generator):
    """Returns k and v tensors for the layers that own none, as Google's files carry them."""
    text = case.text
    first_shared = text['num_hidden_layers'] - text['num_kv_shared_layers']
    tensors = {}
    for layer in range(first_shared, text['num_hidden_layers']):
        full = text['layer_types'][layer] == 'full_attention'
        head_dim = text['global_head_dim' if full else 'head_dim']
        prefix = f'model.language_model.layers.{layer}.self_attn.'
        rows = text['num_key_value_heads'] * head_dim
        for role, shape in (('k_proj', (rows, text['hidden_size'])),
                            ('v_proj', (rows, text['hidden_size'])), ('k_norm', (head_dim,))):
            value = 3 * torch.randn(shape, generator=generator)
            tensors[f'{prefix}{role}.weight'] = value.to(torch.bfloat16)
    return tensors


def RandomState(case, config_dir):
    """Returns all tensors of a case under their published names."""
    config = transformers.AutoConfig.from_pretrained(config_dir)
    with torch.device('meta'):
        model = transformers.Gemma4ForConditionalGeneration(config)
    generator = torch.Generator().manual_seed(case.seed)
    state = {name: RandomTensor(name, tuple(value.shape), case, generator)
             for name, value in model.state_dict().items() if name != 'lm_head.weight'}
    if case.shared_kv_garbage:
        state |= GarbageSharedKv(case, generator)
    return state


def WriteJson(path, value):
    path.write_text(json.dumps(value, indent=2) + '\n')


def SaveShards(state, directory, num_shards):
    """Writes the tensors as one file, or as several with an index."""
    metadata = {'format': 'pt'}
    if num_shards == 1:
        safetensors.torch.save_file(state, directory / 'model.safetensors', metadata)
        return
    total = sum(value.nbytes for value in state.values())
    shards = [{} for _ in range(num_shards)]
    written = 0
    for name, value in state.items():
        shards[min(written * num_shards // total, num_shards - 1)][name] = value
        written += value.nbytes
    weight_map = {}
    for i, shard in enumerate(shards):
        file_name = f'model-{i + 1:05d}-of-{num_shards:05d}.safetensors'
        safetensors.torch.save_file(shard, directory / file_name, metadata)
        weight_map |= {name: file_name for name in shard}
    parameters = sum(value.numel() for value in state.values())
    WriteJson(directory / 'model.safetensors.index.json', {
        'metadata': {'total_parameters': parameters, 'total_size': total},
        'weight_map': dict(sorted(weight_map.items()))})


def WriteCheckpoint(case):
    """Writes the checkpoint directory of a case and returns it."""
    directory = MODELS_DIR / case.name
    shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir(parents=True)
    WriteJson(directory / 'config.json', Config(case))
    SaveShards(RandomState(case, directory), directory, case.num_shards)
    if case.layout != 'published':
        model = transformers.Gemma4ForConditionalGeneration.from_pretrained(
            directory, dtype=torch.bfloat16)
        if case.layout == 'flat':
            causal = transformers.Gemma4ForCausalLM(model.config.text_config).to(torch.bfloat16)
            causal.model.load_state_dict(model.model.language_model.state_dict())
            model = causal
        shutil.rmtree(directory)
        model.save_pretrained(directory)
    WriteJson(directory / 'generation_config.json', {
        'bos_token_id': 2, 'do_sample': True, 'eos_token_id': list(EOS_IDS), 'pad_token_id': 0,
        'temperature': 1.0, 'top_k': 64, 'top_p': 0.95, 'transformers_version': '5.5.0.dev0'})
    return directory


def Load(directory, dtype):
    """Loads a checkpoint as a reference: eager everywhere, and nothing left at random."""
    model, info = transformers.AutoModelForCausalLM.from_pretrained(
        directory, dtype=dtype, attn_implementation='eager', experts_implementation='eager',
        output_loading_info=True)
    assert not info['missing_keys'], info['missing_keys']
    assert not info['mismatched_keys'], info['mismatched_keys']
    return model.eval()


@contextlib.contextmanager
def TrueFloat64():
    """Keeps float64 tensors float64 where the model code asks for float32."""
    to_float = torch.Tensor.float
    softmax = torch.nn.functional.softmax
    torch.Tensor.float = lambda x: x if x.dtype == torch.float64 else to_float(x)
    torch.nn.functional.softmax = lambda x, dim, dtype=None: softmax(
        x, dim=dim, dtype=x.dtype if x.dtype == torch.float64 else dtype)
    try:
        yield
    finally:
        torch.Tensor.float = to_float
        torch.nn.functional.softmax = softmax


class RouterProbe:
    """Records what every router of a model reads and returns during one forward pass."""

    def __init__(self, model):
        self.records = {}
        for name, module in model.named_modules():
            if name.endswith('.router'):
                layer = int(name.split('.')[-2])
                module.register_forward_hook(
                    lambda _, args, out, layer=layer: self.records.update({layer: (args[0], *out)}))

    def SmallestGap(self, top_k):
        """Returns the least log gap between the last chosen and the first rejected expert."""
        gaps = [math.inf]
        for _, probabilities, _, _ in self.records.values():
            top = probabilities.log().topk(top_k + 1, dim=-1).values
            gaps.append((top[:, top_k - 1] - top[:, top_k]).min().item())
        return min(gaps)


@torch.no_grad()
def Logits(model, ids, **kwargs):
    """Returns the logits of every position, without a cache."""
    return model(input_ids=torch.tensor([ids]), use_cache=False, **kwargs).logits[0]


def Greedy(model, prompt):
    """Continues greedily; returns the tokens, or None if a choice is too close or too special."""
    ids = list(prompt)
    forbidden = {0, *EOS_IDS, *PLACEHOLDER_IDS.values()}
    for _ in range(GREEDY_TOKENS):
        top = Logits(model, ids, logits_to_keep=1)[-1].topk(2)
        token = top.indices[0].item()
        if top.values[0] - top.values[1] < GREEDY_GAP_MIN or token in forbidden:
            return None
        ids.append(token)
    generated = ids[len(prompt):]
    return generated if len(set(generated)) >= GREEDY_DISTINCT_MIN else None


def RandomPrompt(num_tokens, seed, placeholders):
    """Returns <bos> and random ids; with `placeholders`, one of each kind among them."""
    generator = torch.Generator().manual_seed(seed)
    plain = [i for i in range(107, VOCAB)
             if i not in PLACEHOLDER_IDS.values() and i not in BOUNDARY_IDS.values()]
    picks = torch.randint(len(plain), (num_tokens - 1,), generator=generator).tolist()
    ids = [2] + [plain[i] for i in picks]
    if placeholders:
        for position, token in zip((7, 8, 41, 80), (*PLACEHOLDER_IDS.values(), 500)):
            ids[position] = token
    return ids


def FindPrompt(model, case, placeholders):
    """Returns a prompt free of near-ties and its greedy continuation."""
    probe = RouterProbe(model)
    for attempt in range(PROMPT_ATTEMPTS):
        seed = 1000 * case.seed + 500 * placeholders + attempt
        prompt = RandomPrompt(PROMPT_TOKENS, seed, placeholders)
        greedy = Greedy(model, prompt)
        if greedy is None:
            continue
        Logits(model, prompt + greedy)
        if probe.SmallestGap(case.text['top_k_experts'] or 0) < ROUTER_GAP_MIN:
            continue
        return prompt, greedy, seed
    raise RuntimeError(f'{case.name}: no prompt without near-ties in {PROMPT_ATTEMPTS} attempts')


def SaveTensors(path, tensors):
    """Writes a safetensors file; integers become int32, floats float32."""
    safetensors.torch.save_file(
        {name: torch.as_tensor(value).to(
            torch.float32 if torch.as_tensor(value).is_floating_point() else torch.int32)
         .contiguous() for name, value in tensors.items()}, path)


def WriteCase(case, directory, name, placeholders):
    """Finds a prompt, computes its reference and writes it; returns the seed and the measures."""
    model = Load(directory, torch.float32)
    prompt, greedy, seed = FindPrompt(model, case, placeholders)
    logits = Logits(model, prompt)
    with TrueFloat64():
        noise = (Logits(Load(directory, torch.float64), prompt) - logits).abs().max().item()
    assert noise < NOISE_MAX, (name, noise)
    bf16 = (Logits(Load(directory, torch.bfloat16), prompt).float() - logits).abs()
    SaveTensors(LOGITS_DIR / f'{name}.safetensors', {
        'ids': prompt, 'logits': logits, 'greedy': greedy,
        'bf16_mean': bf16.mean().reshape(1), 'bf16_max': bf16.max().reshape(1)})
    measures = {'float32_noise': noise, 'bf16_mean': bf16.mean().item(),
                'bf16_max': bf16.max().item(), 'logit_std': logits.std().item(),
                'distinct_greedy': len(set(greedy))}
    print(name, seed, json.dumps({k: float(f'{v:.3g}') for k, v in measures.items()}), flush=True)
    return seed, measures


def WriteLong(case, directory):
    """Writes the last logits of a prompt long enough to show how rope angles are computed."""
    model = Load(directory, torch.float32)
    ids = RandomPrompt(LONG_PROMPT_TOKENS, 1000 * case.seed + 900, False)
    logits = Logits(model, ids, logits_to_keep=LONG_LOGIT_ROWS)
    with TrueFloat64():
        exact = Logits(Load(directory, torch.float64), ids, logits_to_keep=LONG_LOGIT_ROWS)
    print(f'{case.name}_long float32_noise {(exact - logits).abs().max().item():.3g}', flush=True)
    SaveTensors(LOGITS_DIR / f'{case.name}_long.safetensors', {
        'ids': ids, 'logits': logits,
        'first_position': [LONG_PROMPT_TOKENS - LONG_LOGIT_ROWS]})


def WriteRouter(case, directory, layer=2):
    """Writes what one router reads and chooses: logits cannot show its division by the sum."""
    model = Load(directory, torch.float32)
    probe = RouterProbe(model)
    ids = safetensors.torch.load_file(LOGITS_DIR / f'{case.name}.safetensors')['ids'].tolist()
    Logits(model, ids)
    hidden, probabilities, weights, experts = probe.records[layer]
    top = probabilities.log().topk(case.text['top_k_experts'] + 1, dim=-1).values
    clear = (top[:, :-1] - top[:, 1:]).min(dim=-1).values > ROUTER_GAP_MIN
    SaveTensors(LOGITS_DIR / 'moe_router.safetensors', {
        'hidden': hidden[clear], 'topk_ids': experts[clear], 'topk_weights': weights[clear],
        'layer': [layer]})


def WriteAll():
    """Writes every checkpoint, every logits file and the manifest."""
    torch.manual_seed(0)
    LOGITS_DIR.mkdir(exist_ok=True)
    rows = []
    for case in CASES:
        directory = WriteCheckpoint(case)
        prompts = [(case.name, False)]
        if case.placeholder_prompt:
            prompts.append((f'{case.name}_placeholder', True))
        for name, placeholders in prompts:
            seed, measures = WriteCase(case, directory, name, placeholders)
            long_file = f'{case.name}_long.safetensors' if case.long_prompt else None
            notes = case.notes
            if placeholders:
                notes = 'image, audio and video placeholder ids in the prompt: embedded as pad'
            rows.append({
                'name': name, 'model': case.name, 'logits': f'{name}.safetensors',
                'long': None if placeholders else long_file, 'prompt_seed': seed,
                'float32_noise': float(f'{measures["float32_noise"]:.2g}'), 'notes': notes})
        if case.long_prompt:
            WriteLong(case, directory)
        if case.text['enable_moe_block']:
            WriteRouter(case, directory)
    WriteJson(GOLDEN_DIR / 'cases.json', {
        'transformers': transformers.__version__, 'torch': torch.__version__,
        'router': {'model': 'moe', 'file': 'moe_router.safetensors'}, 'cases': rows})


if __name__ == '__main__':
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    WriteAll()
