"""How families of models write conversations: their chat templates, reduced to what matters here."""

LLAMA2 = (
    "{% for m in messages %}{% if m['role'] == 'system' %}<<SYS>>{{ m['content'] }}<</SYS>>"
    "{% elif m['role'] == 'user' %}[INST] {{ m['content'] }} [/INST]"
    "{% else %} {{ m['content'] }}<|im_end|>{% endif %}{% endfor %}"
)
ZEPHYR = (
    "{% for m in messages %}<|{{ m['role'] }}|>\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>\n{% endif %}"
)
# A template that shows an empty line of reasoning before the last reply only.
REASONING = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n"
    "{% if loop.last and m['role'] == 'assistant' %}<think>\n\n</think>\n\n{% endif %}"
    "{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
# Each turn is written with its length and with the conversation's, so nothing shows where it stands.
UNCUTTABLE = (
    "{% for m in messages %}{{ messages | length }} {{ m['content'] | length }} "
    "{{ m['content'] }}\n{% endfor %}"
)
# How families of models write turns that are history, reduced to what matters here.
GEMMA = (
    "{% if messages[0]['role'] == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}"
    "{% for m in messages %}<|im_start|>{{ m['role'] | replace('assistant', 'model') }}\n"
    "{{ m['content'] | trim }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>model\n{% endif %}"
)
MISTRAL = (  # the system prompt stands in the last turn, if that is the user's, and else nowhere
    "{% if messages[0]['role'] == 'system' %}{% set system = messages[0]['content'] %}"
    "{% set turns = messages[1:] %}{% else %}{% set turns = messages %}{% endif %}"
    "{% for m in turns %}{% if m['role'] == 'user' %}{% if loop.last and system is defined %}"
    "[INST] {{ system }}\n{{ m['content'] }}[/INST]{% else %}[INST] {{ m['content'] }}[/INST]{% endif %}"
    "{% else %} {{ m['content'] | trim }}<|im_end|>{% endif %}{% endfor %}"
)
PHI3 = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% else %}{{ '<|endoftext|>' }}{% endif %}"
)
THOUGHT = "{% set said = m['content'].split('</think>')[-1].lstrip('\n') %}"
QWEN3 = (
    "{% set ns = namespace(asked=0) %}{% for m in messages %}{% if m['role'] == 'user' %}"
    "{% set ns.asked = loop.index0 %}{% endif %}{% endfor %}{% for m in messages %}"
    + THOUGHT
    + "<|im_start|>{{ m['role'] }}\n{% if m['role'] == 'assistant' and loop.index0 > ns.asked %}<think>\n"
    "{% if '</think>' in m['content'] %}{{ m['content'].split('</think>')[0].split('<think>')[-1] | trim }}"
    "{% endif %}{{ '\n</think>\n\n' }}{% endif %}{{ said }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\nOPENING{% endif %}"
)
QWEN35 = QWEN3.replace("OPENING", "<think>\n")
QWEN3 = QWEN3.replace("OPENING", "")
DEEPSEEK = (
    "{% for m in messages %}{% if m['role'] == 'system' %}{{ m['content'] }}{% elif m['role'] == 'user' %}"
    "<|im_start|>{{ m['content'] }}{% else %}"
    + THOUGHT
    + "|A|{{ said }}<|im_end|>{% endif %}{% endfor %}{% if add_generation_prompt %}|A|<think>\n{% endif %}"
)

# With its fields for reasoning, calls and definitions of tools.
QWEN3_TOOLS = (
    "{%- if tools %}{{ '<|im_start|>system\n' }}"
    "{%- if messages[0].role == 'system' %}{{ messages[0].content + '\n\n' }}{% endif %}"
    "{{- '# Tools\n<tools>' }}{% for tool in tools %}{{ '\n' }}{{ tool | tojson }}{% endfor %}"
    "{{- '\n</tools><|im_end|>\n' }}"
    "{%- elif messages[0].role == 'system' %}"
    "{{- '<|im_start|>system\n' + messages[0].content + '<|im_end|>\n' }}{% endif %}"
    "{%- set ns = namespace(asked=0) %}{% for m in messages %}{% if m.role == 'user' %}"
    "{% set ns.asked = loop.index0 %}{% endif %}{% endfor %}{% for m in messages %}"
    "{%- if m.role == 'user' or (m.role == 'system' and not loop.first) %}"
    "{{- '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>\n' }}{% elif m.role == 'assistant' %}"
    "{%- set said = m.content %}{% set thought = '' %}"
    "{%- if m.reasoning_content is string %}{% set thought = m.reasoning_content.strip('\n') %}"
    "{%- elif '</think>' in said %}"
    "{%- set thought = said.split('</think>')[0].split('<think>')[-1].strip('\n') %}"
    "{%- set said = said.split('</think>')[-1].lstrip('\n') %}{% endif %}{{ '<|im_start|>assistant\n' }}"
    "{%- if loop.index0 > ns.asked and (loop.last or thought) %}"
    "{{- '<think>\n' + thought + '\n</think>\n\n' }}{% endif %}{{ said }}"
    "{%- for call in m.tool_calls or [] %}{% if said or not loop.first %}{{ '\n' }}{% endif %}"
    '{{- \'<tool_call>\n{"name": "\' + call.function.name + \'", "arguments": \' }}'
    "{%- if call.function.arguments is string %}{{ call.function.arguments }}"
    "{%- else %}{{ call.function.arguments | tojson }}{% endif %}{{ '}\n</tool_call>' }}{% endfor %}"
    "{{- '<|im_end|>\n' }}{% elif m.role == 'tool' %}"
    "{%- if loop.first or messages[loop.index0 - 1].role != 'tool' %}{{ '<|im_start|>user' }}{% endif %}"
    "{{- '\n<tool_response>\n' + m.content + '\n</tool_response>' }}"
    "{%- if loop.last or messages[loop.index0 + 1].role != 'tool' %}{{ '<|im_end|>\n' }}{% endif %}"
    "{%- endif %}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
LLAMA31 = (  # one call a turn, whose words are not shown beside it
    "{% if messages[0].role == 'system' %}{% set system = messages[0].content %}"
    "{% set turns = messages[1:] %}{% else %}{% set system = '' %}{% set turns = messages %}{% endif %}"
    "<|im_start|>system\n\n{{ system | trim }}<|im_end|>"
    "{% for m in turns %}{% if m.role == 'tool' %}<|im_start|>ipython\n\n{{ m.content | tojson }}<|im_end|>"
    "{% elif 'tool_calls' in m %}{% if m.tool_calls | length != 1 %}"
    "{{ raise_exception('This model only supports single tool-calls at once!') }}{% endif %}"
    "{% set call = m.tool_calls[0].function %}<|im_start|>assistant\n\n"
    '{{ \'{"name": "\' + call.name + \'", "parameters": \' }}{{ call.arguments | tojson }}'
    "{{ '}<|im_end|>' }}{% else %}<|im_start|>{{ m.role }}\n\n{{ m.content | trim }}<|im_end|>{% endif %}"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n\n{% endif %}"
)
TEXT_CALLS = (  # DeepSeek V3's: arguments are text that it writes as it is
    "{% for m in messages %}{% if m.tool_calls %}<|im_start|>assistant\n{% for call in m.tool_calls %}"
    "{{ call.function.name + '(' + call.function.arguments + ')' }}{% endfor %}<|im_end|>"
    "{% else %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
FORGETFUL = (  # shows a system turn at the beginning alone, and no turn of a tool
    "{% for m in messages %}{% if m.role in ['user', 'assistant'] or (m.role == 'system' and loop.first) %}"
    "<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
MISTRAL_TOOLS = (  # Nemo's: turns alternate but for calls, which need ids; tools before the last question
    "{%- set ns = namespace(at=0, asked=0) %}{%- for m in messages %}"
    "{%- if m.role == 'user' %}{% set ns.asked = loop.index0 %}{% endif %}"
    "{%- if not (m.role == 'tool' or m.tool_calls is defined) %}"
    "{%- if (m.role == 'user') != (ns.at % 2 == 0) %}"
    "{{- raise_exception('conversation roles must alternate user/assistant/user/assistant/...') }}{% endif %}"
    "{%- set ns.at = ns.at + 1 %}{% endif %}{% endfor %}{%- for m in messages %}"
    "{%- if m.role == 'user' %}{% if tools and loop.index0 == ns.asked %}"
    "{{- '[AVAILABLE_TOOLS]' + tools | tojson + '[/AVAILABLE_TOOLS]' }}{% endif %}"
    "{{- '[INST]' + m.content + '[/INST]' }}{% elif m.tool_calls is defined %}{{- '[TOOL_CALLS][' }}"
    "{%- for call in m.tool_calls %}{% if call.id is not defined or call.id | length != 9 %}"
    "{{- raise_exception('Tool call IDs should be alphanumeric strings with length 9!') }}{% endif %}"
    "{{- (call.function | tojson)[:-1] + ', \"id\": \"' + call.id + '\"}' }}"
    "{{- ', ' if not loop.last else ']<|im_end|>' }}{% endfor %}{% elif m.role == 'tool' %}"
    "{%- if m.tool_call_id is not defined or m.tool_call_id | length != 9 %}"
    "{{- raise_exception('Tool call IDs should be alphanumeric strings with length 9!') }}{% endif %}"
    "{{- '[TOOL_RESULTS]' + m.content + ' ' + m.tool_call_id + '[/TOOL_RESULTS]' }}"
    "{%- else %}{{- m.content + '<|im_end|>' }}{% endif %}{% endfor %}"
)
FIRST_CALL = (  # gpt-oss's: shows the first of several calls, and results of tools as JSON
    "{% for m in messages %}<|im_start|>{{ m.role }}\n"
    "{% if m.tool_calls %}{% set c = m.tool_calls[0].function %}"
    "{{ c.name }} {{ c.arguments | tojson }}{% elif m.role == 'tool' %}{{ m.content | tojson }}"
    "{% else %}{{ m.content }}{% endif %}<|im_end|>{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)

FAMILIES = {
    "llama2": LLAMA2,
    "zephyr": ZEPHYR,
    "reasoning": REASONING,
    "uncuttable": UNCUTTABLE,
    "gemma": GEMMA,
    "mistral": MISTRAL,
    "phi3": PHI3,
    "qwen3": QWEN3,
    "qwen3.5": QWEN35,
    "qwen3, tools": QWEN3_TOOLS,
    "deepseek": DEEPSEEK,
    "llama3.1": LLAMA31,
    "text calls": TEXT_CALLS,
    "forgetful": FORGETFUL,
    "mistral, tools": MISTRAL_TOOLS,
    "first call": FIRST_CALL,
}
