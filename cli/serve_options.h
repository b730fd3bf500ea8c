/* serve_options.h - what can be said to `cadre serve`, on the command line or in a file. */
#pragma once
#include "base/conf.h"

struct serve_options {
    char *listen, *control, *key, *fabric, *launcher, *hosts, *net_devices, *weights, *kv, *config, *placement, *isa, *mla;
    char *lease, *on_death, *coordinator_node, *endpoint_file;
    char *journal, *journal_sync, *attach;
    bool journal_repair;
    char *payload, *combine_payload, *combine, *microbatches, *dispatch;
    char *log_level;
    int64_t workers, max_workers, rank, size, threads, max_batch, max_context, step_tokens, kv_tokens, memory;
    int64_t startup, hold, drain;
};
extern const struct conf_command serve_command; /* fills a struct serve_options; numbers not given stay as they were */
