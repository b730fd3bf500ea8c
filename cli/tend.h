/* tend.h - keeps one program going: it is started again when it dies (cli/revive.h), until it ends with status 0, or says that
 * there is no use, or dies again and again, or its coordinator is gone. For workers whose supervisor, `cadre serve`, is on
 * another host, or that runs no coordinator: a launcher sees only us, and we live. Signals that ask to end are ignored: the
 * coordinator sends its workers home. Who kills us kills the program as well. */
#pragma once
#include "cli/child.h"

enum { TEND_NO_USE = 3 }; /* exit status of cadre-worker: it is refused, or no coordinator answers */

/* Owner: the only thread; no other children. The exit status; name: for messages, "worker rank 3"; control: the coordinator's
 * endpoint, "tcp://HOST:PORT". */
int tend_run(const char *name, const char *control, char *const argv[]);
