"""What the dashboards show: the source of the JSON files beside it (generate.py writes them).

A row asks a question and its panels answer it. Queries name no variables: the generator adds a
selector for every variable that all series of a query have, so that both sides of a ratio are
filtered alike. Units are Grafana's.
"""

from collections import namedtuple

Dashboard = namedtuple("Dashboard", "uid title runbook description rows")
Row = namedtuple("Row", "question panels")
# queries: legend → PromQL. stack: the series add up. whole_range: one figure per series, for the
# time that is shown, not a curve.
Panel = namedtuple("Panel", "title unit description queries stack whole_range",
                   defaults=(False, False))

RATE = "[$__rate_interval]"


def rate(metric, by, matchers=""):
    series = f"{metric}{{{matchers}}}" if matchers else metric
    return f"sum by ({by}) (rate({series}{RATE}))"


def phase_cost(phase, kind):
    cost = rate("facet_cost_usd_total", "model", f'phase="{phase}"')
    return f"1e6 * {cost} / " + rate("facet_worker_tokens_total", "model", f'kind="{kind}"')


def quantiles(metric):
    return {f"{{{{model}}}} p{percent}":
            f"histogram_quantile(0.{percent}, {rate(metric + '_bucket', 'le, model')})"
            for percent in (50, 95, 99)}


def latency(title, metric, description):
    return Panel(title, "s", description + " Quantiles are interpolated inside a bucket.",
                 quantiles(metric))


IDLE_COST = rate("facet_idle_cost_usd_total", "pool")
BUSY_COST = rate("facet_cost_usd_total", "pool")  # Absent until the first request.

COST = Dashboard(
    "facet-cost", "Facet: cost", "cost.md",
    "What tokens cost, who causes it, and what is paid for nothing. For bills, use the usage in "
    "replies: rates over samples are estimates.", [
        Row("What do a million tokens cost?", [
            Panel("Busy and idle, per million output tokens", "currencyUSD",
                  "All that the devices of a model cost, divided by the output tokens of clients. "
                  "It falls as load rises; without output there is no value.",
                  {"{{model}}": f"1e6 * ({rate('facet_cost_usd_total', 'model')} + "
                                f"{rate('facet_idle_cost_usd_total', 'model')}) / "
                                + rate("facet_tokens_total", "model", 'kind=~"output.*"')}),
            Panel("Busy only, by tenant, per million output tokens", "currencyUSD",
                  "Charged to a tenant, prompts included, divided by its output tokens. Long "
                  "prompts make it high.",
                  {"{{model}} {{tenant}}":
                   f"1e6 * {rate('facet_charged_usd_total', 'model, tenant')} / "
                   + rate("facet_tokens_total", "model, tenant", 'kind=~"output.*"')}),
            Panel("Busy only, by phase, per million tokens of that phase", "currencyUSD",
                  "Prefill per prompt token computed, decode per token drawn.",
                  {"{{model}} prefill": phase_cost("prefill", "prompt_computed"),
                   "{{model}} decode": phase_cost("decode", "output")}),
        ]),
        Row("Where does the money go?", [
            Panel("Dollars per hour", "currencyUSD",
                  "Busy cost by model and idle cost by reason: together the price of all devices.",
                  {"busy, {{model}}": f"3600 * {rate('facet_cost_usd_total', 'model')}",
                   "idle, {{reason}}": f"3600 * {rate('facet_idle_cost_usd_total', 'reason')}"},
                  stack=True),
            Panel("Dollars per hour, by tenant", "currencyUSD",
                  "Busy cost that workers charged to the requests of a tenant.",
                  {"{{tenant}}": f"3600 * {rate('facet_charged_usd_total', 'tenant')}"},
                  stack=True),
            Panel("Dollars in the time shown, by tenant", "currencyUSD",
                  "Increase of the charges; extrapolated to the ends of the range.",
                  {"{{tenant}}": "sum by (tenant) (increase(facet_charged_usd_total[$__range]))"},
                  whole_range=True),
            Panel("Dollars per hour, held devices", "currencyUSD",
                  "What the devices cost whether they are busy or not, at the price of the time.",
                  {"{{pool}}": "3600 * " + rate("facet_device_cost_usd_total", "pool")},
                  stack=True),
            Panel("Price of the devices, per hour", "currencyUSD",
                  "As configured. A device at 0 makes every figure here too low.",
                  {"{{pool}} {{device_class}}":
                   "3600 * sum by (pool, device_class) (facet_device_price_usd_per_second)"},
                  stack=True),
        ]),
        Row("What is paid for nothing?", [
            Panel("Idle share of the cost, by pool", "percentunit",
                  "Cost of time without steps, by reason, as a share of all cost of the pool.",
                  {"{{pool}} {{reason}}":
                   f"{rate('facet_idle_cost_usd_total', 'pool, reason')} / on (pool) group_left () "
                   f"({IDLE_COST} + ({BUSY_COST} or 0 * {IDLE_COST}))"}, stack=True),
            Panel("Wasted share of busy time, by reason", "percentunit",
                  "Computed, and no client got it. overrun is the step that was under way when an "
                  "answer ended.",
                  {"{{model}} {{reason}}":
                   f"{rate('facet_device_wasted_seconds_total', 'model, reason')} / on (model) "
                   f"group_left () {rate('facet_device_busy_seconds_total', 'model')}"},
                  stack=True),
            Panel("Dollars per hour wasted, by reason", "currencyUSD",
                  "The same at the price of the pool's devices.",
                  {"{{pool}} {{reason}}":
                   f"3600 * {rate('facet_device_wasted_seconds_total', 'pool, reason')} * on (pool) "
                   "group_left () avg by (pool) (facet_device_price_usd_per_second)"}, stack=True),
            Panel("Devices lent and borrowed, by pool", "short",
                  "Ranks of an expert group: how many devices' time goes to requests of other ranks, "
                  "and how many other devices' time requests pay for.",
                  {"{{pool}} lent": rate("facet_device_lent_seconds_total", "pool"),
                   "{{pool}} borrowed": rate("facet_device_borrowed_seconds_total", "pool")}),
            Panel("Dollars per hour lent and borrowed, by pool", "currencyUSD",
                  "The cost of that time. Busy and idle cost, less borrowed, plus lent: the price "
                  "of the devices.",
                  {"{{pool}} lent": "3600 * " + rate("facet_lent_cost_usd_total", "pool"),
                   "{{pool}} borrowed": "3600 * " + rate("facet_borrowed_cost_usd_total", "pool")}),
            Panel("Tokens charged, by kind", "short", "Tokens per second of requests that ended.",
                  {"{{model}} {{kind}}": rate("facet_tokens_total", "model, kind")}, stack=True),
        ]),
        Row("Is every request in the ledger?", [
            Panel("Usage records per second, by who settled them", "short",
                  "router: its worker died, and these are the charges that it had told of.",
                  {"{{source}}": rate("facet_usage_ledger_records_total", "source")}, stack=True),
            Panel("Oldest record that waits", "s",
                  "In a router for its disk, in a worker for a router's confirmation. Some tenths "
                  "of a second are usual.",
                  {"router": "max(facet_usage_ledger_lag_seconds)",
                   "{{pool}}/{{worker}}":
                   "max by (pool, worker) (facet_usage_journal_lag_seconds)"}),
            Panel("Records that wait in workers", "short",
                  "Settled and not confirmed.",
                  {"{{pool}}/{{worker}}": "max by (pool, worker) (facet_usage_journal_records)"}),
            Panel("Records given up per second", "short",
                  "Too many waited: these are in no ledger.",
                  {"{{pool}}/{{worker}}": rate("facet_usage_journal_dropped_total",
                                               "pool, worker")}),
        ]),
    ])

CAPACITY = Dashboard(
    "facet-capacity", "Facet: capacity", "capacity.md",
    "How full the devices and their KV caches are, and what waits for them.", [
        Row("How busy are the devices?", [
            Panel("Device time, by state", "percentunit",
                  "Every device second is in one state, so the states add up to 1.",
                  {"{{state}}": f"{rate('facet_device_state_seconds_total', 'state')} / on () "
                                f"group_left () sum(rate(facet_device_seconds_total{RATE}))"},
                  stack=True),
            Panel("Headroom, by pool", "percentunit",
                  "Share of the time that devices ran no step. Decode steps grow slowly with more "
                  "sequences, so there is more room than this says.",
                  {"{{pool}}": f"1 - {rate('facet_device_busy_seconds_total', 'pool')} / "
                               + rate("facet_device_seconds_total", "pool")}),
            Panel("Busy devices, by phase", "short",
                  "How many devices' time goes to prefill and decode, as requests are charged.",
                  {"{{pool}} {{phase}}": rate("facet_device_busy_seconds_total", "pool, phase")},
                  stack=True),
        ]),
        Row("Is there room for more sequences?", [
            Panel("KV cache in use, by worker", "percentunit",
                  "Above 95 % new prompts wait and running ones may be preempted.",
                  {"{{pool}}/{{worker}}": "sum by (pool, worker) (facet_kv_used_bytes) / "
                                          "sum by (pool, worker) (facet_kv_capacity_bytes)"}),
            Panel("Sequences in the engines", "short",
                  "waiting sequences have been sent to a worker and have no KV blocks yet.",
                  {"{{pool}}/{{worker}} {{state}}":
                   "sum by (pool, worker, state) (facet_worker_sequences)"}),
            Panel("Preemptions per second", "short",
                  "Sequences whose blocks were taken back; their prefill is computed again.",
                  {"{{pool}}": rate("facet_worker_preemptions_total", "pool")}),
        ]),
        Row("Is demand met?", [
            Panel("Requests that wait for a worker", "short", "At the router, by model.",
                  {"{{model}}": "sum by (model) (facet_queue_requests)"}),
            Panel("Requests under way", "short", "Given to a worker and not ended.",
                  {"{{model}}": "sum by (model) (facet_requests_running)"}),
            Panel("Wait of a request that came now", "s",
                  "Requests that wait, over how many workers took per second: by Little's law. Beyond "
                  "queue_wait_ms_max requests are refused.",
                  {"{{model}}": "sum by (model) (facet_queue_requests) / "
                                + rate("facet_queue_wait_seconds_count", "model")}),
            Panel("Workers that take requests", "short", "By pool.",
                  {"{{pool}}": "sum by (pool) (facet_worker_ready)"}),
            Panel("Workers needed", "short",
                  "So many that half of the slots are in use, with the model's queue given to this "
                  "pool, and nine tenths of the KV cache. The chart's autoscaler aims at the same "
                  "half by default.",
                  {"{{pool}} by slots":
                   "clamp_min(ceil((sum by (model, pool) (facet_worker_sequences) + on (model) "
                   "group_left () sum by (model) (facet_queue_requests)) / (0.5 * "
                   "avg by (model, pool) (facet_worker_sequences_max))), 1)",
                   "{{pool}} by KV cache":
                   "clamp_min(ceil(sum by (model, pool) (facet_kv_used_bytes) / (0.9 * "
                   "avg by (model, pool) (facet_kv_capacity_bytes))), 1)"}),
            Panel("Credits: sequences", "short",
                  "How many more sequences workers would start at once. At 0 requests wait.",
                  {"{{pool}}": 'sum by (pool) (facet_worker_credits{kind="sequences"})'}),
            Panel("Credits: prompt tokens", "short",
                  "How many more prompt tokens workers would start on at once. At 0 requests wait.",
                  {"{{pool}}": 'sum by (pool) (facet_worker_credits{kind="prompt_tokens"})'}),
        ]),
        Row("What do the engines do?", [
            Panel("Tokens computed per second", "short", "By steps of the pool, waste included.",
                  {"{{pool}} {{kind}}": rate("facet_worker_tokens_total", "pool, kind")}),
            Panel("Steps per second", "short", "Of all workers of the pool.",
                  {"{{pool}}": rate("facet_worker_steps_total", "pool")}),
            Panel("Error of the step model, by worker", "percentunit",
                  "How far its prediction is from the time that a step takes. Requests share a step "
                  "by this model; where it is far off, fit it anew.",
                  {"{{pool}}/{{worker}}": "max by (pool, worker) (facet_step_model_error_ratio)"}),
            Panel("MFU: operations beside the devices' peak", "percentunit",
                  "Floating-point operations of steps over peak_flops of the pool's config, of all "
                  "time held. Nothing is shown for pools without it. Prefill is bound by this.",
                  {"{{pool}}": f"{rate('facet_flops_total', 'pool')} / "
                               "sum by (pool) (facet_device_peak_flops)"}),
            Panel("MBU: bytes beside the devices' peak", "percentunit",
                  "Bytes that steps read over peak_hbm_bytes_per_second. Decode is bound by this.",
                  {"{{pool}}": f"{rate('facet_hbm_bytes_total', 'pool')} / "
                               "sum by (pool) (facet_device_peak_hbm_bytes_per_second)"}),
            Panel("Sequences that ended, per second", "short", "By reason.",
                  {"{{pool}} {{reason}}":
                   rate("facet_worker_sequences_finished_total", "pool, reason")}, stack=True),
        ]),
    ])

LATENCY = Dashboard(
    "facet-latency", "Facet: latency and errors", "latency.md",
    "What clients feel, measured at the router.", [
        Row("Are the objectives met?", [
            Panel("Requests per second, by code", "reqps", "gRPC status code of the answer.",
                  {"{{model}} {{code}}": rate("facet_requests_total", "model, code")}, stack=True),
            Panel("Failed requests, 5 min", "percentunit",
                  "Ended by a code that is ours to answer for; client errors and cancellations are "
                  "not counted at all.",
                  {"{{model}}": "model:facet_requests_failed:ratio_rate5m"}),
            Panel("Error budget burnt, 1 h", "short",
                  "1 uses up the budget in exactly 30 days; alerts page at 14.4 (1 h) and 6 (6 h).",
                  {"{{model}} availability": "model:facet_requests_failed:ratio_rate1h / 0.001",
                   "{{model}} TTFT": "model:facet_ttft_late:ratio_rate1h / 0.01"}),
        ]),
        Row("Do requests get what the model's slo promises?", [
            Panel("Requests that did", "percentunit",
                  "By promise; all is both and a good end. What a client did wrong or gave up does "
                  "not count.",
                  {"{{model}} {{slo}}":
                   rate("facet_slo_requests_total", "model, slo", 'result="met"') + " / "
                   + rate("facet_slo_requests_total", "model, slo", 'result=~"met|missed"')}),
            Panel("Goodput, tokens per second", "short",
                  "Output tokens of requests that met every promise.",
                  {"{{model}}": rate("facet_goodput_tokens_total", "model")}),
        ]),
        Row("How long until the first token?", [
            latency("Time to first token", "facet_time_to_first_token_seconds",
                    "Arrival at the router to the first committed token."),
            latency("Queue wait", "facet_queue_wait_seconds",
                    "Arrival at the router to dispatch: part of the time to first token."),
        ]),
        Row("How fast is the rest?", [
            latency("Gap between tokens", "facet_inter_token_seconds",
                    "Between two tokens of one request, at the router."),
            latency("Time per output token", "facet_time_per_output_token_seconds",
                    "Mean gap after the first token, of requests that ended well."),
            latency("Whole request", "facet_request_seconds",
                    "Arrival at the router to the end of the answer; long answers take long."),
        ]),
    ])

EXPERTS = Dashboard(
    "facet-expert-groups", "Facet: expert-parallel groups", "workers.md",
    "Pools whose workers share the experts of a model. Pools of replicas have values here, too, but "
    "no epochs.", [
        Row("Do the groups hold?", [
            Panel("Sessions lost, by reason", "short",
                  "In the range of a point. When a group ends, the sessions of all its ranks do: "
                  "mostly as stream, as epoch if a rank was back in a newer epoch first.",
                  {"{{pool}} {{reason}}":
                   "sum by (pool, reason) (increase(facet_worker_lost_total[$__rate_interval]))"},
                  stack=True),
            Panel("Time in the state fault", "percentunit",
                  "Share of a worker's time in which its group was not formed.",
                  {"{{pool}}/{{worker}}": rate("facet_device_state_seconds_total", "pool, worker",
                                               'state="fault"')}),
            Panel("Epoch of the group", "short",
                  "Each time that a group forms it has a higher one. Ranks that differ are not in one "
                  "group.",
                  {"{{pool}}/{{worker}}": "max by (pool, worker) (facet_worker_group_epoch)"}),
            Panel("Ranks that take requests", "short", "1 or 0; spares are at 0.",
                  {"{{pool}}/{{worker}}": "sum by (pool, worker) (facet_worker_ready)"}),
        ]),
        Row("Is the work even?", [
            Panel("Expert skew, hottest over mean", "short",
                  "Choices of the most chosen expert over the mean of all, in the time shown. "
                  "Withheld in low traffic: a worker counts up only after a minute, 100,000 tokens "
                  "and eight tenants, so that no request shows.",
                  {"{{pool}}":
                   "max by (pool) (sum by (pool, expert) "
                   "(increase(facet_expert_choices_total[$__range]))) / avg by (pool) "
                   "(sum by (pool, expert) (increase(facet_expert_choices_total[$__range])))"},
                  whole_range=True),
            Panel("Most chosen experts", "percentunit",
                  "Share of all choices of the pool in the time shown. Withheld in low traffic.",
                  {"{{pool}} expert {{expert}}":
                   "topk by (pool) (8, sum by (pool, expert) "
                   "(increase(facet_expert_choices_total[$__range]))) / on (pool) group_left () "
                   "sum by (pool) (increase(facet_expert_choices_total[$__range]))"},
                  whole_range=True),
            Panel("Sequences running, by rank", "short",
                  "All ranks step together, so the fullest one sets the pace.",
                  {"{{pool}}/{{worker}}":
                   'sum by (pool, worker) (facet_worker_sequences{state="running"})'}),
        ]),
    ])

ROUTER = Dashboard(
    "facet-router", "Facet: router", "router.md",
    "What the router relays, drops and refuses, and which workers it sends to.", [
        Row("Does the relay keep up?", [
            Panel("Tokens of ended requests per second", "short", "By model and kind.",
                  {"{{model}} {{kind}}": rate("facet_tokens_total", "model, kind")}),
            Panel("Deltas dropped per second", "short",
                  "Not committed. unknown_request and epoch follow cancels and lost workers; "
                  "position is a defect.",
                  {"{{reason}}": rate("facet_frames_dropped_total", "reason")}, stack=True),
            Panel("Requests ended for slow reading, per second", "short",
                  "The client left more unread than its stream holds.",
                  {"{{model}}": rate("facet_slow_consumers_total", "model")}),
        ]),
        Row("Where can requests go?", [
            Panel("Workers ready", "short", "1 if the router sends requests to the worker.",
                  {"{{pool}}/{{worker}}": "max by (pool, worker) (facet_worker_ready)"}),
            Panel("Workers lost", "short", "Sessions that ended while the router wanted them.",
                  {"{{pool}}/{{worker}} {{reason}}":
                   "sum by (pool, worker, reason) "
                   "(increase(facet_worker_lost_total[$__rate_interval]))"}),
            Panel("Waiting and under way", "short", "Requests by model.",
                  {"{{model}} waiting": "sum by (model) (facet_queue_requests)",
                   "{{model}} under way": "sum by (model) (facet_requests_running)"}),
            Panel("Silence of workers", "s",
                  "How long ago the router heard of each worker it has a session with. Heartbeats "
                  "come ten times a second, and after a second of silence it gives the worker up: "
                  "more than that means that the router itself does not get on.",
                  {"{{pool}}/{{worker}}": "max by (pool, worker) (facet_worker_report_age_seconds)"}),
        ]),
        Row("Who is turned away?", [
            Panel("Requests without a valid key, per second", "short",
                  "Refused before anything else is looked at.",
                  {"{{front}}": rate("facet_requests_unauthenticated_total", "front")}),
            Panel("Programs that run, by version", "short", "Routers and workers.",
                  {"{{version}}": "sum by (version) (facet_build_info)"}),
            Panel("Records counted under other, per second", "short",
                  "A label had its 1000 values already; the ledger still has the names.",
                  {"{{label}}": rate("facet_label_overflow_total", "label")}),
        ]),
        Row("Are the processes well?", [
            Panel("Memory of what there may be", "percentunit",
                  "Of the control group's limit, or the machine's memory. Pages of files do not "
                  "count: the kernel takes them back.",
                  {"{{program}} {{instance}}":
                   "sum by (program, instance) (facet_process_resident_bytes) / "
                   "sum by (program, instance) (facet_process_memory_limit_bytes)"}),
            Panel("Processors in use", "short", "Seconds of processor time per second.",
                  {"{{program}} {{instance}}": rate("facet_process_cpu_seconds_total",
                                                    "program, instance")}),
            Panel("Time since the start", "s", "It falls when a process has started again.",
                  {"{{program}} {{instance}}":
                   "time() - max by (program, instance) (facet_process_start_time_seconds)"}),
            Panel("Time until certificates expire", "s",
                  "Files are read again every ten seconds, so a renewed one needs no restart.",
                  {"{{use}} {{instance}}":
                   "min by (use, instance) (facet_certificate_expiry_timestamp_seconds) - time()"}),
        ]),
    ])

DASHBOARDS = [COST, CAPACITY, LATENCY, EXPERTS, ROUTER]
