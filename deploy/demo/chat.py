"""Renders conversations in Gemma 4's chat format, as the published templates do.

Covers what the demo models are trained and scored on: string contents, flat tool schemas, string
tool results. `large` selects the template of the 26B and 31B models, which appends an empty thought
channel to the generation prompt when thinking is off.
"""

import re

QUOTE = '<|"|>'


def _Quoted(text):
    return f'{QUOTE}{text}{QUOTE}'


def _Value(value):
    """Writes a tool argument: bare keys sorted without regard to case, quoted strings."""
    if value is None or isinstance(value, bool):
        return {None: 'null', True: 'true', False: 'false'}[value]
    if isinstance(value, str):
        return _Quoted(value)
    if isinstance(value, list):
        return f'[{",".join(map(_Value, value))}]'
    if isinstance(value, dict):
        keys = sorted(value, key=str.lower)
        return f'{{{",".join(f"{k}:{_Value(value[k])}" for k in keys)}}}'
    return str(value)


def _Property(schema):
    fields = []
    if 'description' in schema:
        fields.append(f'description:{_Quoted(schema["description"])}')
    if 'enum' in schema:
        fields.append(f'enum:{_Value(schema["enum"])}')
    fields.append(f'type:{_Quoted(schema["type"].upper())}')
    return f'{{{",".join(fields)}}}'


def _Declaration(tool):
    """Writes the declaration of one tool in OpenAI's form."""
    function = tool['function']
    text = f'declaration:{function["name"]}{{description:{_Quoted(function["description"])}'
    if schema := function.get('parameters'):
        parts = []
        if properties := schema.get('properties'):
            names = sorted(properties, key=str.lower)
            inner = ','.join(f'{name}:{_Property(properties[name])}' for name in names)
            parts.append(f'properties:{{{inner}}}')
        if schema.get('required'):
            parts.append(f'required:{_Value(schema["required"])}')
        parts.append(f'type:{_Quoted(schema["type"].upper())}')
        text += f',parameters:{{{",".join(parts)}}}'
    return f'<|tool>{text}}}<tool|>'


def ToolCall(name, arguments):
    """Writes one call as the model is to produce it."""
    return f'<|tool_call>call:{name}{_Value(arguments)}<tool_call|>'


def _SystemTurn(messages, tools, thinking):
    system = messages[0]['content'].strip() if messages[0]['role'] == 'system' else ''
    if not (thinking or tools or messages[0]['role'] == 'system'):
        return ''
    think = '<|think|>\n' if thinking else ''
    return f'<|turn>system\n{think}{system}{"".join(map(_Declaration, tools))}<turn|>\n'


def RenderPrompt(messages, tools=(), thinking=False, large=False):
    """Returns the text that the model continues, up to and including the generation prompt."""
    text = '<bos>' + _SystemTurn(messages, tools, thinking)
    last_user = max(i for i, m in enumerate(messages) if m['role'] == 'user')
    model_turn_open = False
    call_names = {}
    for i, message in enumerate(messages):
        role = message['role']
        if role == 'user':
            if model_turn_open:
                text += '<turn|>\n'
                model_turn_open = False
            text += f'<|turn>user\n{message["content"].strip()}<turn|>\n'
        elif role == 'assistant':
            if not model_turn_open:
                text += '<|turn>model\n'
                model_turn_open = True
            if message.get('reasoning_content') and i > last_user and message.get('tool_calls'):
                text += f'<|channel>thought\n{message["reasoning_content"]}\n<channel|>'
            for call in message.get('tool_calls', ()):
                call_names[call['id']] = call['function']['name']
                text += ToolCall(call['function']['name'], call['function']['arguments'])
            content = message.get('content') or ''
            text += re.sub(r'(?s)<\|channel>.*?<channel\|>', '', content).strip()
        elif role == 'tool':
            name = call_names[message['tool_call_id']]
            value = _Value({'value': message['content']})
            text += f'<|tool_response>response:{name}{value}<tool_response|>'
    if messages[-1]['role'] == 'tool':
        return text + ('<|channel>thought\n' if thinking else '')
    return text + '<|turn>model\n' + (
        '<|channel>thought\n<channel|>' if large and not thinking else '')
