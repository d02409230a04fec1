/*
 * Logs all users of a machine off, and shows how far it is.
 *
 *     cargo xtask c --release
 *     cc -std=c99 -Ivmm/include vmm/examples/logoff.c -o logoff -Ltarget/release -lvmm
 *     LD_LIBRARY_PATH=target/release ./logoff NAME [KERNEL [INITRD [APPEND]]]
 *
 * The machine is that of the vmm command with this name. If it is off, it is started, and runs in
 * this process until the end. If there is none, and a kernel is given, it is created.
 *
 * Exits with 0 if nobody is logged on any more, and else with 1.
 */
#define _POSIX_C_SOURCE 200809L

#include "vmm.h"

#include <inttypes.h>
#include <poll.h>
#include <stdio.h>

/* How long a guest may take until its agent is there. */
#define AGENT_LIMIT_MS (5 * 60 * 1000)

/* Says what a call has answered, and if that is a failure why. */
static int failed(const char *call, vmm_hresult code)
{
    printf("%s: 0x%08" PRIX32 " %s\n", call, (uint32_t)code, vmm_hresult_symbol(code));
    if (!VMM_FAILED(code)) {
        return 0;
    }
    fprintf(stderr, "%s: %s\n", call, vmm_last_error_text());
    return 1;
}

/* Finds the machine, or creates it: one reference, or null. */
static struct vmm_machine *find(struct vmm_virtual_pc *pc, int count, char **arguments)
{
    struct vmm_machine_options options = {.size = sizeof options};
    struct vmm_machine *machine = NULL;
    vmm_hresult code = vmm_virtual_pc_find(pc, arguments[0], &machine);

    if (failed("find", code) || code == S_OK) {
        return machine;
    }
    if (count < 2) {
        fprintf(stderr, "there is no machine %s, and no kernel to create it with\n", arguments[0]);
        return NULL;
    }
    options.kernel = arguments[1];
    options.initrd = count > 2 ? arguments[2] : NULL;
    options.append = count > 3 ? arguments[3] : NULL;
    failed("create", vmm_virtual_pc_create(pc, arguments[0], &options, &machine));
    return machine;
}

/* Starts the machine if it is off: 0, or 1 if that failed. */
static int start(struct vmm_machine *machine)
{
    struct vmm_task_info info = {.size = sizeof info};
    struct vmm_task *task = NULL;
    vmm_vm_state state = VMM_VM_STATE_INVALID;
    int result;

    if (failed("state", vmm_machine_state(machine, &state))) {
        return 1;
    }
    if (state != VMM_VM_STATE_TURNED_OFF) {
        return 0;
    }
    if (failed("startup", vmm_machine_startup(machine, &task))) {
        return 1;
    }
    result = failed("startup, wait", vmm_task_wait_for_completion(task, -1, &info))
        || failed("startup, task", info.error);
    vmm_task_release(task);
    return result;
}

/* Waits for the guest's agent: 0, or 1 if none comes. */
static int wait_for_agent(struct vmm_guest_os *guest, struct vmm_events *events)
{
    struct vmm_event event = {.size = sizeof event};
    char *text = NULL;
    vmm_hresult code = vmm_guest_os_integration_components_version(guest, &text);

    vmm_string_free(text);
    if (code != VM_E_ADDITIONS_NOT_AVAIL) {
        return failed("integration components", code);
    }
    do {
        code = vmm_events_next(events, AGENT_LIMIT_MS, &event, &text);
        if (code == S_OK) {
            printf("event: %s\n", text);
        }
        vmm_string_free(text);
    } while (code == S_OK && event.number != VMM_EVENT_NUMBER_ON_ADDITIONS_AVAILABLE
             && event.state != VMM_VM_STATE_TURNED_OFF);
    if (failed("event", code)) {
        return 1;
    }
    if (event.number != VMM_EVENT_NUMBER_ON_ADDITIONS_AVAILABLE) {
        fprintf(stderr, "there is no agent\n");
        return 1;
    }
    return 0;
}

/* Shows a task's changes until it is complete: 0, or 1 if it cannot be followed. */
static int follow(struct vmm_task *task)
{
    struct vmm_task_info info = {.size = sizeof info};
    struct pollfd poll_for = {.events = POLLIN};
    vmm_hresult code = vmm_task_fd(task, &poll_for.fd);

    while (code == S_OK) {
        /* All there is is taken before the descriptor is asked for more. */
        while ((code = vmm_task_next(task, &info)) == S_OK) {
            printf("%3" PRIu32 " %%%s\n", info.percent_completed,
                   info.is_cancelable ? ", can be cancelled" : "");
            if (info.is_complete) {
                return 0;
            }
        }
        if (code == S_FALSE) {
            poll(&poll_for, 1, -1);
            code = S_OK;
        }
    }
    return failed("next", code);
}

/* Logs everyone off: 0, or 1 if that failed. */
static int logoff(struct vmm_guest_os *guest)
{
    struct vmm_task_info info = {.size = sizeof info};
    struct vmm_task *task = NULL;
    char *text = NULL;
    int result = 1;

    if (failed("logoff", vmm_guest_os_logoff(guest, NULL, &task))) {
        return 1;
    }
    if (follow(task) == 0 && !failed("task", vmm_task_get_info(task, &info))) {
        printf("task %" PRIu32 ": result %d, error 0x%08" PRIX32 " %s\n", info.id,
               (int)info.result, (uint32_t)info.error, vmm_hresult_symbol(info.error));
        /* That nobody was there is not success, but it is what is wanted here. */
        result = VMM_FAILED(info.error) && info.error != VMM_ERROR_NO_SUCH_LOGON_SESSION;
        if (vmm_task_report(task, &text) == S_OK) {
            printf("report: %s\n", text);
        }
        vmm_string_free(text);
    }
    vmm_task_release(task);
    return result;
}

int main(int count, char **arguments)
{
    struct vmm_virtual_pc *pc = NULL;
    struct vmm_machine *machine = NULL;
    struct vmm_guest_os *guest = NULL;
    struct vmm_events *events = NULL;
    int result = 1;

    /* Whoever reads this wants to see it when it happens. */
    setvbuf(stdout, NULL, _IOLBF, 0);
    if (count < 2) {
        fprintf(stderr, "usage: logoff NAME [KERNEL [INITRD [APPEND]]]\n");
        return 2;
    }
    if (!failed("open", vmm_virtual_pc_open(NULL, &pc))) {
        machine = find(pc, count - 1, arguments + 1);
    }
    if (machine != NULL && start(machine) == 0
        && !failed("guest", vmm_machine_guest_os(machine, &guest))
        && !failed("events", vmm_machine_events(machine, &events))
        && wait_for_agent(guest, events) == 0) {
        result = logoff(guest);
    }
    /* Null is fine for all of them. */
    vmm_events_release(events);
    vmm_guest_os_release(guest);
    vmm_machine_release(machine);
    vmm_virtual_pc_release(pc);
    return result;
}
