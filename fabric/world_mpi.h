/* world_mpi.h - what both MPI forms share: one world per process, and MPI's own words for what went wrong. */
#pragma once
#include <mpi.h>
#include <stdint.h>

#include "base/status.h"

/* ERR_IO: `call` ended with `code`. */
int world_failed(struct why *why, const char *call, int code);
/* MPI's text of an error code, in buf[MPI_MAX_ERROR_STRING]; returns buf. */
const char *world_text(int code, char *buf);
enum { WORLD_PATIENCE_US = 30000000 }; /* ranks are welcomed together and come to where they meet at the same time */

/* A communicator of a transport's own, on which errors return. Collective; ERR_DEADLINE when not all ranks came by then: this
 * process cannot use MPI any more, nor leave it in order. */
int world_dup(MPI_Comm *out, int64_t deadline_us, struct why *why);
