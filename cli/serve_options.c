/* serve_options.c - see serve_options.h. */
#include "cli/serve_options.h"

#include <stddef.h>

#include "cli/banner.h"
#include "client/cadre.h"

#define AT(member) offsetof(struct serve_options, member)
static const struct conf_option table[] = {
    {"", CONF_FLAG, 0, .help = "Cluster"},
    {"workers", CONF_INT, AT(workers), .min = 1, .max = BANNER_WORKERS, .arg = "N",
     .help = "how many workers share the experts; default: 1, or the ranks that there are"},
    {"max-workers", CONF_INT, AT(max_workers), .min = 1, .max = BANNER_WORKERS, .arg = "N",
     .help = "how many there may be one day: cadre-worker joins while it serves; default: no more"},
    {"fabric", CONF_CHOICE, AT(fabric), .choices = "mem|shm|ucx|auto|mpi|mpi-alltoallv",
     .help = "how workers exchange tokens (see below); default: mem, or auto as ranks"},
    {"hosts", CONF_STRING, AT(hosts), .arg = "LIST", .help = "run the workers there: h1:4,h2:4; fabrics auto, ucx, mpi"},
    {"launcher", CONF_CHOICE, AT(launcher), .def = "auto", .choices = "auto|local|mpirun|srun",
     .help = "who starts the workers; auto: mpirun for --hosts and mpi, srun in Slurm jobs"},
    {"coordinator-node", CONF_STRING, AT(coordinator_node), .arg = "HOST",
     .help = "ranks: where the coordinator runs; default: with rank 0"},
    {"endpoint-file", CONF_STRING, AT(endpoint_file), .arg = "FILE",
     .help = "write there where clients and workers come; ranks find the coordinator by it"},
    {"rank", CONF_INT, AT(rank), .min = 0, .max = BANNER_WORKERS - 1, .arg = "N",
     .help = "which rank this is; default: what mpirun or srun says, if one of them started it"},
    {"size", CONF_INT, AT(size), .min = 1, .max = BANNER_WORKERS, .arg = "N", .help = "of how many; default: the same"},
    {"net-devices", CONF_STRING, AT(net_devices), .arg = "LIST",
     .help = "network devices of ucx and auto, as UCX names them; default: all with a key, lo without"},
    {"control", CONF_STRING, AT(control), .arg = "ENDPOINT",
     .help = "where workers come; default: loopback, or all interfaces when they run elsewhere"},
    {"key", CONF_STRING, AT(key), .arg = "FILE",
     .help = "the key that `cadre keygen` made, at this path on all hosts; needed to listen beyond this one"},
    {"threads", CONF_INT, AT(threads), .min = 1, .max = 1024, .arg = "N",
     .help = "compute threads per worker; default: the CPUs divided by the workers"},
    {"listen", CONF_STRING, AT(listen), .def = CADRE_DEFAULT_ENDPOINT, .arg = "ENDPOINT",
     .help = "where clients come; port * takes any free one"},
    {"placement", CONF_STRING, AT(placement), .arg = "FILE", .help = "which expert lives where; default: evenly, in order"},
    {"", CONF_FLAG, 0, .help = "Numbers"},
    {"weights", CONF_CHOICE, AT(weights), .def = "auto", .choices = "auto|bf16|f32|q8|q4|stored",
     .help = "format of the weights in memory; stored: as on disk; auto: bf16, or the pack's"},
    {"kv", CONF_CHOICE, AT(kv), .def = "auto", .choices = "auto|f32|bf16|f16|int8",
     .help = "format of keys and values; auto: as the weights, bf16 beside quantised ones"},
    {"isa", CONF_CHOICE, AT(isa), .def = "auto", .choices = "auto|ref|avx2|avx512bw|avx512", .help = "kernels to use"},
    {"mla", CONF_CHOICE, AT(mla), .def = "absorbed", .choices = "absorbed|naive-prefill",
     .help = "latent attention of prompts; naive-prefill: fewer operations, other last bits"},
    {"payload", CONF_CHOICE, AT(payload), .def = "f32", .choices = "f32|bf16|int8|fp8",
     .help = "how rows travel to experts; all but f32 round them"},
    {"combine-payload", CONF_CHOICE, AT(combine_payload), .def = "f32", .choices = "f32|bf16",
     .help = "how experts' rows travel back"},
    {"combine", CONF_CHOICE, AT(combine), .def = "rows", .choices = "rows|fused",
     .help = "fused: a sum per token and worker comes back, in fixed point"},
    {"", CONF_FLAG, 0, .help = "Limits"},
    {"max-batch", CONF_INT, AT(max_batch), .min = 1, .max = 65536, .arg = "N",
     .help = "sequences that run at once; default: 32"},
    {"max-context", CONF_INT, AT(max_context), .min = 1, .max = 1 << 24, .arg = "TOKENS",
     .help = "longest prompt and answer together; default: the model's, at most 4096"},
    {"step-tokens", CONF_INT, AT(step_tokens), .min = 1, .max = 1 << 20, .arg = "N",
     .help = "most tokens one worker brings to a step; default: 128"},
    {"dispatch", CONF_CHOICE, AT(dispatch), .def = "auto", .choices = "auto|direct|two-hop",
     .help = "two-hop: tokens cross to a host once and go on from there; auto: the faster on these links"},
    {"microbatches", CONF_CHOICE, AT(microbatches), .def = "auto", .choices = "auto|1|2",
     .help = "2: halves of a step take turns to compute and to travel; auto: as measured"},
    {"kv-tokens", CONF_INT, AT(kv_tokens), .min = 1, .max = 1e11, .arg = "N",
     .help = "tokens whose attention state one worker can hold; default: one context, or 512 per sequence"},
    {"memory", CONF_SIZE, AT(memory), .min = 0, .max = 9e18, .arg = "SIZE",
     .help = "bytes one worker may use; refuse to start when the model needs more"},
    {"", CONF_FLAG, 0, .help = "Operation"},
    {"config", CONF_STRING, AT(config), .arg = "FILE", .help = "read options from lines 'name = value'; the command line wins"},
    {"lease", CONF_STRING, AT(lease), .arg = "SECONDS", .help = "a worker silent for so long is dead; default: 0.5"},
    {"on-death", CONF_CHOICE, AT(on_death), .def = "recover", .choices = "recover|end",
     .help = "of a worker: start another and go on meanwhile, or end"},
    {"journal", CONF_STRING, AT(journal), .arg = "DIR",
     .help = "write accepted requests there: started again with it, a cluster goes on with them"},
    {"journal-sync", CONF_CHOICE, AT(journal_sync), .choices = "always|interval|never",
     .help = "against power loss: always, before accepting; interval (default): every 100 ms"},
    {"journal-repair", CONF_FLAG, AT(journal_repair), .def = "no", .help = "go on without the damaged parts of a journal"},
    {"attach", CONF_STRING, AT(attach), .arg = "SECONDS",
     .help = "how long a request in the journal waits for its client to come back; default: 30"},
    {"startup", CONF_INT, AT(startup), .def = "600", .min = 1, .max = 86400, .arg = "SECONDS",
     .help = "give up when loading takes longer"},
    {"hold", CONF_INT, AT(hold), .def = "60", .min = 0, .max = 86400, .arg = "SECONDS",
     .help = "with a journal: workers keep what they have for so long when the coordinator dies"},
    {"drain", CONF_INT, AT(drain), .def = "30", .min = 0, .max = 86400, .arg = "SECONDS",
     .help = "time for running requests after SIGINT or SIGTERM"},
    {"log-level", CONF_CHOICE, AT(log_level), .def = "info", .choices = "error|warn|info|debug",
     .help = "how much the daemons say"},
    {NULL}};
const struct conf_command serve_command = {
    .name = "cadre serve",
    .usage = "MODEL [options]",
    .about = "Starts a coordinator and workers for the model in folder MODEL on this machine, and serves until SIGINT or\n"
             "SIGTERM. The first signal (SIGUSR1 too) finishes what is running, a second one stops at once. Started by mpirun\n"
             "or srun, or with --rank and --size, each process is one worker, and one of them runs the coordinator as well.",
    .options = table,
    .footer = "Fabrics:\n"
              "  mem    all workers are threads of one process\n"
              "  shm    one process each, through shared memory; one host\n"
              "  ucx    one process each, through UCX: TCP, or RDMA where there is any\n"
              "  auto   shm inside a host, ucx between hosts\n"
              "  mpi    one process each, in an MPI world, point to point; mpi-alltoallv: by its collectives\n\n"
              "Examples:\n"
              "  cadre serve ~/models/olmoe --workers 4\n"
              "  cadre serve ~/models/olmoe --workers 4 --fabric shm --weights f32\n"
              "  cadre serve ~/models/olmoe --workers 8 --fabric auto --hosts n1:4,n2:4 --key cadre.key\n\n"
              "As ranks of a launcher; rank 0's host also runs the coordinator:\n"
              "  mpirun -np 4 --bind-to none cadre serve ~/models/olmoe\n"
              "  srun -N 2 -n 8 cadre serve ~/models/olmoe --key cadre.key\n\n"
              "The same by hand, also over several machines:\n"
              "  cadre-coordinator MODEL --workers 4 --listen tcp://*:5770 --control tcp://*:5771 --key cadre.key\n"
              "  mpirun -np 4 cadre-worker --fabric auto --connect tcp://HEAD:5771 --key cadre.key\n\n"
              "A worker that dies is started again; requests go on with the others or wait for it, and lose nothing.\n"
              "Exit status: 0 stopped in order, 1 could not start or something died, 2 wrong usage.",
    .min_args = 1,
    .max_args = 1};
