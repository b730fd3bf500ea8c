/* parts.h - the parts of a worker's time, in the order of StepDone.part_us (control.proto). */
#pragma once

enum part {
    PART_ATTENTION, /* with its norms and projections */
    PART_DENSE,     /* shared experts, layers without experts */
    PART_GATE,
    PART_DISPATCH,  /* packing, sending, and sorting what came by expert */
    PART_EXPERTS,
    PART_COMBINE,   /* the same on the way back, and the sum */
    PART_WAIT,      /* for peers, with nothing else to do */
    PART_OUTPUT,    /* from a plan to the first rows; logits, sampling, the report */
    PART_SCHEDULER, /* between a step and the one that goes on with its sequences: the way of the report and of the plan */
    PARTS
};
