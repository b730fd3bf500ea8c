/* report.c - what people are told: Status, Experts and Links for clients, a few lines for the log. */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "base/log.h"
#include "coordinator/core.h"
#include "coordinator/recall.h"

static const char *state_name(const struct coordinator *c) {
    switch (c->state) {
    case CORE_LOADING:
    case CORE_PROVING: return "loading";
    case CORE_SERVING: return "serving";
    case CORE_RECOVERING: return "recovering";
    case CORE_FAILED: return "failed";
    default: return "draining";
    }
}

static void report_worker(struct coordinator *c, int w, struct worker_report *r) {
    const struct member *m = &c->members.m[w];
    *r = (struct worker_report){.rank = (uint32_t)w,
                                .host = m->host,
                                .pid = m->pid,
                                .state = worker_state_name(m->state),
                                .load_percent = member_load_percent(m),
                                .weight_bytes = m->ready.weight_bytes,
                                .resident_bytes = m->ready.resident_bytes,
                                .kv_bytes = m->ready.kv_bytes,
                                .mapped_bytes = m->ready.mapped_bytes,
                                .buffer_bytes = m->ready.buffer_bytes,
                                .exchange_bytes = m->ready.exchange_bytes,
                                .kv_pages = (uint32_t)c->scheduler.limits.pages,
                                .kv_pages_used = (uint32_t)pages_used(&c->scheduler.pages, w),
                                .sequences = (uint32_t)c->scheduler.home[w].n_running,
                                .blobs = m->ready.blobs,
                                .rows = c->telemetry.worker_rows[w],
                                .wait_us = c->telemetry.wait_us[w],
                                .busy_us = c->telemetry.busy_us[w],
                                .part_us = c->telemetry.part_us[w]};
    if (member_alive(&c->members, w) && c->now_us > m->seen_us) r->beat_age_us = (uint64_t)(c->now_us - m->seen_us);
    r->experts = (uint32_t)planner_describe(&c->shape, c->hosts, w, r->placement, sizeof r->placement);
}

const uint8_t *report_status(struct coordinator *c, size_t *len) {
    struct journal_report journal;
    struct recovery_report recovery = c->recovery.report;
    recovery.without_one = c->recovery.without_one;
    const struct scheduler *s = &c->scheduler;
    struct bus_link clients_door, workers_door;
    bus_get_link(c->client_bus, &clients_door);
    bus_get_link(c->worker_bus, &workers_door);
    struct worker_report *workers = client_port_scratch(c->client_port, sizeof *workers * (size_t)c->options.workers);
    if (!workers) return NULL;
    health_check(c);
    scheduler_settle(&c->scheduler); /* so that pages of what has ended are not shown as used */
    int n = c->options.workers; /* ranks that nobody ever had are not shown */
    while (n > c->options.first && c->members.m[n - 1].state == WORKER_EXPECTED) n--;
    for (int w = 0; w < n; w++) report_worker(c, w, &workers[w]);
    struct status_report r = {.model = c->model_name,
                              .family = c->checkpoint.config.family,
                              .state = state_name(c),
                              .reason = c->state == CORE_FAILED       ? c->why.text
                                        : c->state == CORE_RECOVERING ? c->recovery.why.text
                                                                      : "",
                              .numeric_class = c->members.numeric_class,
                              .listen = bus_endpoint(c->client_bus),
                              .control = bus_endpoint(c->worker_bus),
                              .fabric = c->options.fabric,
                              .uptime_us = (uint64_t)(c->now_us - c->started_us),
                              .steps = s->committed,
                              .finished = c->counts.finished,
                              .cancelled = c->counts.cancelled,
                              .expired = c->counts.expired,
                              .strangers = clients_door.refused + workers_door.refused + c->strangers +
                                           call_server_stats(c->calls)->denied,
                              .failed = c->counts.failed,
                              .preemptions = s->counts.preemptions,
                              .prompt_tokens = s->counts.prompt_tokens,
                              .generated_tokens = s->counts.tokens,
                              .epoch = c->epoch,
                              .placement_version = c->placement.version,
                              .waiting = (uint32_t)s->n_waiting,
                              .running = (uint32_t)s->n_running,
                              .max_context = (uint32_t)s->limits.max_context,
                              .max_batch = (uint32_t)s->limits.max_batch,
                              .layers = (uint32_t)c->shape.layers,
                              .experts = (uint32_t)c->shape.experts,
                              .topk = (uint32_t)c->checkpoint.config.gate.k,
                              .missing_experts = (uint32_t)c->placement.missing,
                              .missing = c->missing,
                              .journal = recall_report(c, &journal),
                              .recovery = c->options.survive ? &recovery : NULL,
                              .health = &c->health,
                              .workers = workers,
                              .n_workers = n};
    return client_port_status(c->client_port, &r, len);
}

const uint8_t *report_experts(struct coordinator *c, size_t *len) {
    size_t n = (size_t)c->shape.layers * (size_t)c->shape.experts;
    uint64_t *tagged = client_port_scratch(c->client_port, (sizeof *tagged * TRACE_DOMAINS + sizeof(uint32_t)) * n + 1);
    if (!tagged) return NULL;
    uint32_t *first = (uint32_t *)(tagged + TRACE_DOMAINS * n);
    struct domain_report domains[TRACE_DOMAINS];
    int n_domains = 0;
    for (int d = 1; d < c->domains.n; d++, tagged += n) {
        struct domain_report r = {.name = c->domains.name[d], .rows = tagged};
        if (domains_sum(&c->domains, d, tagged, &r.tokens)) domains[n_domains++] = r;
    }
    for (size_t i = 0; i < n; i++) first[i] = c->hosts[i] ? (uint32_t)__builtin_ctzll(c->hosts[i]) : UINT32_MAX;
    struct experts_report r = {.layers = (uint32_t)c->shape.layers,
                               .experts = (uint32_t)c->shape.experts,
                               .rows = c->telemetry.rows,
                               .model_layer = c->model_layer,
                               .worker_rows = c->telemetry.worker_rows,
                               .n_workers = c->options.workers,
                               .first_host = first,
                               .tokens = c->telemetry.tokens,
                               .domains = domains,
                               .n_domains = n_domains};
    return client_port_experts(c->client_port, &r, len);
}

static struct hops_report report_hops(const struct coordinator *c) {
    const struct hops *h = &c->steps.hops;
    struct hops_report r = {.hosts = (uint32_t)h->hosts,
                            .two_from = (uint32_t)hops_two_from(h, c->scheduler.limits.step_tokens),
                            .inside = h->inside,
                            .between = h->between,
                            .steps = {c->steps.sent[0], c->steps.sent[1]}};
    for (int w = 0; w < c->options.workers; w++) {
        const struct far_count *f = &c->links.far[w];
        r.far.rows += f->rows, r.far.direct += f->direct, r.far.answers += f->answers;
        r.far.dispatch_bytes += f->dispatch_bytes, r.far.combine_bytes += f->combine_bytes;
    }
    return r;
}

const uint8_t *report_links(struct coordinator *c, size_t *len) {
    enum { BYTES, FRAMES, WAIT_US, WAITS, P50, P99, EXTRA, STALE, DUPLICATE, BAD, HISTOGRAM };
    enum { TABLES = HISTOGRAM + MSG_WAIT_BUCKETS };
    int n = c->options.workers;
    size_t cells = (size_t)n * (size_t)n;
    uint64_t *t = client_port_scratch(c->client_port, sizeof *t * (TABLES * cells + 3 * (size_t)n));
    double share;
    if (!t) return NULL;
    uint64_t *tasks = t + TABLES * cells;
    for (int w = 0; w < n; w++) {
        tasks[w] = c->links.tasks[w].n;
        tasks[n + w] = c->links.tasks[w].over;
        tasks[2 * n + w] = c->links.tasks[w].longest_us;
    }
    for (int from = 0; from < n; from++)
        for (int to = 0; to < n; to++) {
            const struct link_count *sent = &c->links.count[from * n + to], *felt = &c->links.count[to * n + from];
            uint64_t *cell = t + from * n + to;
            cell[BYTES * cells] = sent->bytes_out;
            cell[FRAMES * cells] = sent->frames_out;
            cell[WAIT_US * cells] = c->links.wait_us[to * n + from];
            cell[WAITS * cells] = links_waits(felt);
            cell[P50 * cells] = links_quantile_us(felt, 0.5);
            cell[P99 * cells] = links_quantile_us(felt, 0.99);
            cell[EXTRA * cells] = sent->frames_extra;
            cell[STALE * cells] = felt->frames_stale;
            cell[DUPLICATE * cells] = felt->frames_duplicate;
            cell[BAD * cells] = felt->frames_bad;
            memcpy(t + HISTOGRAM * cells + (size_t)(from * n + to) * MSG_WAIT_BUCKETS, felt->waits, sizeof felt->waits);
        }
    struct links_report r = {.workers = (uint32_t)n,
                             .bytes = t + BYTES * cells,
                             .frames = t + FRAMES * cells,
                             .wait_us = t + WAIT_US * cells,
                             .waits = t + WAITS * cells,
                             .p50_us = t + P50 * cells,
                             .p99_us = t + P99 * cells,
                             .extra = t + EXTRA * cells,
                             .stale = t + STALE * cells,
                             .duplicate = t + DUPLICATE * cells,
                             .bad = t + BAD * cells,
                             .histogram = t + HISTOGRAM * cells,
                             .tasks = tasks,
                             .tasks_long = tasks + n,
                             .tasks_longest_us = tasks + 2 * n,
                             .steps_whole = c->steps.overlap.steps[0],
                             .steps_halved = c->steps.overlap.steps[1],
                             .slowest = links_slowest(&c->links, &share),
                             .hops = report_hops(c)};
    r.slowest_percent = r.slowest < 0 ? 0 : (uint32_t)(100 * share);
    return client_port_links(c->client_port, &r, len);
}

void report_busy(struct coordinator *c) {
    const struct scheduler *s = &c->scheduler;
    double prompt, tokens;
    int used = 0;
    telemetry_rate(&c->telemetry, c->now_us, &prompt, &tokens);
    for (int w = 0; w < c->options.workers; w++) used += pages_used(&s->pages, w);
    log_info("prompt %.1f tok/s, generation %.1f tok/s, %d running, %d waiting, KV %.0f %%", prompt, tokens, s->n_running,
             s->n_waiting, 100.0 * used / ((double)s->limits.pages * c->options.workers));
}

static void describe_link(const struct hops_link *l, char *buf, size_t cap) {
    if (l->bytes_per_us > 0) snprintf(buf, cap, "%.1f us and %.1f MB/s", l->latency_us, l->bytes_per_us);
    else snprintf(buf, cap, "not known");
}

/* Between hosts there is a choice, so it is said what it rests on. */
static void report_dispatch(const struct coordinator *c) {
    const struct hops *h = &c->steps.hops;
    char inside[64], between[64];
    int from = hops_two_from(h, c->scheduler.limits.step_tokens);
    if (h->hosts < 2 || !h->experts) return;
    describe_link(&h->inside, inside, sizeof inside);
    describe_link(&h->between, between, sizeof between);
    log_info("links of %d hosts: inside %s, between %s", h->hosts, inside, between);
    if (!from) log_info("tokens go straight to every worker");
    else log_info("tokens go to another host once, and on from there, in steps of %d or more on a worker", from);
}

void report_serving(struct coordinator *c) {
    char placement[256];
    report_dispatch(c);
    for (int w = 0; w < c->options.workers; w++) {
        if (!member_serves(&c->members, w)) continue;
        const struct worker_ready *r = &c->members.m[w].ready;
        planner_describe(&c->shape, c->hosts, w, placement, sizeof placement);
        log_info("worker %d: experts %s; %.1f MiB experts, %.1f MiB other weights, %.1f MiB KV", w,
                 placement[0] ? placement : "none", (double)r->weight_bytes / (1 << 20), (double)r->resident_bytes / (1 << 20),
                 (double)r->kv_bytes / (1 << 20));
    }
    log_info("serving %s (%s) at %s: %d sequences, context %d; %s", c->model_name, c->checkpoint.config.family,
             bus_endpoint(c->client_bus), c->scheduler.limits.max_batch, c->scheduler.limits.max_context,
             c->members.numeric_class);
}
