/*
 * Logs off the users of a guest with an agent.
 *
 *     guest twice NAME    somebody is logged on: success, and then there is nobody
 *     guest once NAME     prints what came of it: "call" or "task", code and symbol
 *
 * The machines are those of VMM_DATA_DIR and VMM_RUNTIME_DIR. What is not as documented is printed,
 * and makes the exit code 1.
 */
#define _POSIX_C_SOURCE 200809L

#include "check.h"

#include <poll.h>

/* Begins a logoff, polls it to its end, and gives its error. */
static vmm_hresult logoff_to_the_end(struct vmm_guest_os *guest, vmm_task_result expected)
{
    struct vmm_logoff_options options = VMM_LOGOFF_OPTIONS_INIT;
    struct vmm_task_info info = {.size = sizeof info}, last = {.size = sizeof last};
    struct pollfd poll_for = {.events = POLLIN};
    struct vmm_task *task = NULL;
    vmm_hresult code;
    char *text = NULL;

    ROW(vmm_guest_os_logoff(guest, &options, &task), S_OK, 0);
    ROW(vmm_task_fd(task, &poll_for.fd), S_OK, 0);
    do {
        HOLDS(poll(&poll_for, 1, 60000) == 1);
        while ((code = vmm_task_next(task, &info)) == S_OK) {
            HOLDS(info.percent_completed >= last.percent_completed);
            last = info;
        }
    } while (code == S_FALSE && !last.is_complete);
    ROW(vmm_task_get_info(task, &info), S_OK, 0);
    HOLDS(memcmp(&info, &last, sizeof info) == 0);
    HOLDS(info.result == expected);
    HOLDS(!VMM_FAILED(vmm_task_report(task, &text)));
    vmm_string_free(text);
    ROW(vmm_task_error_description(task, &text), S_OK, 0);
    HOLDS((text[0] != '\0') == VMM_FAILED(info.error));
    vmm_string_free(text);
    vmm_task_release(task);
    return info.error;
}

static void twice(struct vmm_guest_os *guest)
{
    ROW(logoff_to_the_end(guest, VMM_TASK_RESULT_SUCCESS), S_OK, 0);
    ROW_WIN32(logoff_to_the_end(guest, VMM_TASK_RESULT_UNEXPECTED_ERROR),
              ERROR_NO_SUCH_LOGON_SESSION, 0x80070520);
}

static void once(const char *name)
{
    struct vmm_task_info info = {.size = sizeof info};
    struct vmm_machine *machine = NULL;
    struct vmm_guest_os *guest = NULL;
    struct vmm_task *task = NULL;
    const char *came = "call";
    vmm_hresult code = vmm_virtual_pc_find(pc, name, &machine);

    if (code == S_FALSE) {
        code = VM_E_VM_UNKNOWN;
    } else if (code == S_OK) {
        ROW(vmm_machine_guest_os(machine, &guest), S_OK, 0);
        code = vmm_guest_os_logoff(guest, NULL, &task);
    }
    HOLDS((task != NULL) == (code == S_OK));
    if (task != NULL) {
        ROW(vmm_task_wait_for_completion(task, -1, &info), S_OK, 0);
        came = "task";
        code = info.error;
    }
    printf("%s 0x%08" PRIX32 " %s\n", came, (uint32_t)code, vmm_hresult_symbol(code));
    vmm_task_release(task);
    vmm_guest_os_release(guest);
    vmm_machine_release(machine);
}

int main(int count, char **arguments)
{
    const char *scene = count == 3 ? arguments[1] : "";

    setvbuf(stdout, NULL, _IOLBF, 0);
    ROW(vmm_virtual_pc_open(NULL, &pc), S_OK, 0);
    if (strcmp(scene, "twice") == 0) {
        struct vmm_machine *machine = get(arguments[2]);
        struct vmm_guest_os *guest = guest_of(machine);

        twice(guest);
        vmm_guest_os_release(guest);
        vmm_machine_release(machine);
    } else if (strcmp(scene, "once") == 0) {
        once(arguments[2]);
    } else {
        printf("no such scene: %s\n", scene);
        wrong++;
    }
    vmm_virtual_pc_release(pc);
    return wrong != 0;
}
