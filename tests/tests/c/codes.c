/*
 * Provokes the documented codes, and compares them: symbol and value.
 *
 *     codes off KERNEL        without a machine that runs; leaves a machine "web" that is off
 *     codes on                "web" runs elsewhere, without an agent
 *     codes inside KERNEL     a machine that runs in this process
 *
 * The machines are those of VMM_DATA_DIR and VMM_RUNTIME_DIR. What is not as documented is printed,
 * and makes the exit code 1.
 */
#define _POSIX_C_SOURCE 200809L
#define _DEFAULT_SOURCE

#include "check.h"

#include <grp.h>
#include <poll.h>
#include <pthread.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

/* A user whom no system has, and whom the definition of "web" lets read. */
#define READER "4000001"
/* Another one, to whom it is unknown. */
#define STRANGER "4000002"

typedef vmm_hresult work_member(struct vmm_machine *, struct vmm_task **);
typedef vmm_hresult text_member(struct vmm_guest_os *, char **);
typedef vmm_hresult truth_member(struct vmm_guest_os *, int32_t *);

/* A call is answered with an object or a failure, never with both or neither. */
static vmm_hresult let_go(vmm_hresult code, struct vmm_machine *machine)
{
    HOLDS((machine != NULL) == (code == S_OK));
    vmm_machine_release(machine);
    return code;
}

static vmm_hresult text(text_member *member, struct vmm_guest_os *guest)
{
    char *text = NULL;
    vmm_hresult code = member(guest, &text);

    HOLDS((text != NULL) == (code == S_OK));
    vmm_string_free(text);
    return code;
}

static vmm_hresult truth(truth_member *member, struct vmm_guest_os *guest)
{
    int32_t yes = 7;
    vmm_hresult code = member(guest, &yes);

    HOLDS(yes == 0 || (yes == 1 && code == S_OK));
    return code;
}

/* Begins work and gives the task, which is its caller's. */
static vmm_hresult begin(work_member *member, struct vmm_machine *machine, struct vmm_task **task)
{
    vmm_hresult code = member(machine, task);

    HOLDS((*task != NULL) == (code == S_OK));
    return code;
}

/* Begins work that is refused. */
static vmm_hresult work(work_member *member, struct vmm_machine *machine)
{
    struct vmm_task *task = NULL;
    vmm_hresult code = begin(member, machine, &task);

    vmm_task_release(task);
    return code;
}

/* Does work to its end. */
static vmm_hresult done(work_member *member, struct vmm_machine *machine)
{
    struct vmm_task_info info = {.size = sizeof info};
    struct vmm_task *task = NULL;
    vmm_hresult code = begin(member, machine, &task);

    if (code == S_OK) {
        code = vmm_task_wait_for_completion(task, 30000, &info);
    }
    if (code == S_OK) {
        HOLDS(info.is_complete && info.percent_completed == 100);
        HOLDS(info.result == VMM_TASK_RESULT_SUCCESS);
        code = info.error;
    }
    vmm_task_release(task);
    return code;
}

static vmm_hresult logoff(struct vmm_guest_os *guest)
{
    struct vmm_task *task = NULL;
    vmm_hresult code = vmm_guest_os_logoff(guest, NULL, &task);

    HOLDS((task != NULL) == (code == S_OK));
    vmm_task_release(task);
    return code;
}

static vmm_hresult guest_power(int restart, struct vmm_guest_os *guest)
{
    struct vmm_task *task = NULL;
    vmm_hresult code = restart ? vmm_guest_os_restart(guest, 0, &task)
                               : vmm_guest_os_shutdown(guest, 1, &task);

    vmm_task_release(task);
    return code;
}

static vmm_hresult state(struct vmm_machine *machine, vmm_vm_state expected)
{
    vmm_vm_state state = VMM_VM_STATE_SAVING;
    vmm_hresult code = vmm_machine_state(machine, &state);

    HOLDS(state == (code == S_OK ? expected : VMM_VM_STATE_INVALID));
    return code;
}

static vmm_hresult create(const char *name, const char *kernel)
{
    struct vmm_machine_options options = {.size = sizeof options, .kernel = kernel};
    struct vmm_machine *made = NULL;
    vmm_hresult code = vmm_virtual_pc_create(pc, name, &options, &made);

    return let_go(code, made);
}

static vmm_hresult find(const char *name)
{
    struct vmm_machine *found = NULL;
    vmm_hresult code = vmm_virtual_pc_find(pc, name, &found);

    return let_go(code, found);
}

/* Starts the machine with its runtime folder in another place. */
static vmm_hresult start_in(const char *runtime)
{
    struct vmm_virtual_pc_options options = {
        .size = sizeof options, .data_dir = getenv("VMM_DATA_DIR"), .runtime_dir = runtime};
    struct vmm_virtual_pc *elsewhere = NULL;
    struct vmm_machine *web = NULL;
    vmm_hresult code;

    ROW(vmm_virtual_pc_open(&options, &elsewhere), S_OK, 0);
    ROW(vmm_virtual_pc_find(elsewhere, "web", &web), S_OK, 0);
    code = work(vmm_machine_startup, web);
    vmm_machine_release(web);
    vmm_virtual_pc_release(elsewhere);
    return code;
}

/* A file is where the runtime folder should be. */
static vmm_hresult start_nowhere(const char *kernel)
{
    char folder[4096];

    snprintf(folder, sizeof folder, "%s/run", kernel);
    return start_in(folder);
}

/* A socket in place of the lock is nothing that anybody expects. */
static vmm_hresult start_oddly(const char *kernel)
{
    struct sockaddr_un name = {.sun_family = AF_UNIX};
    char folder[80];
    int odd = socket(AF_UNIX, SOCK_STREAM, 0);

    snprintf(folder, sizeof folder, "%s.run", kernel);
    HOLDS(mkdir(folder, 0700) == 0);
    snprintf(name.sun_path, sizeof name.sun_path, "%s/web", folder);
    HOLDS(mkdir(name.sun_path, 0700) == 0);
    snprintf(name.sun_path, sizeof name.sun_path, "%s/web/lock", folder);
    HOLDS(bind(odd, (struct sockaddr *)&name, sizeof name) == 0);
    close(odd);
    return start_in(folder);
}

/* Adds something to a machine's definition. */
static vmm_hresult define(struct vmm_machine *machine, const char *addition)
{
    char *old = NULL, *new = NULL;
    vmm_hresult code = vmm_machine_definition(machine, &old);

    if (code == S_OK) {
        size_t room = strlen(old) + strlen(addition) + 1;

        new = malloc(room);
        snprintf(new, room, "%s%s", old, addition);
        code = vmm_machine_set_definition(machine, new);
    }
    free(new);
    vmm_string_free(old);
    return code;
}

static void off(const char *kernel)
{
    char long_name[82];
    struct vmm_machine *web, *gone;
    struct vmm_guest_os *guest, *nobody;
    struct vmm_task *task = NULL;
    int32_t yes = 7;

    memset(long_name, 'x', sizeof long_name - 1);
    long_name[sizeof long_name - 1] = '\0';
    ROW(create("web", kernel), S_OK, 0);
    ROW(create("gone", kernel), S_OK, 0);
    web = get("WEB");
    gone = get("gone");
    guest = guest_of(web);
    nobody = guest_of(gone);
    ROW(vmm_virtual_pc_delete(pc, gone), S_OK, 0);
    ROW(vmm_virtual_pc_delete(pc, gone), S_FALSE, 1);
    ROW(find("gone"), S_FALSE, 1);
    ROW(create("", kernel), VM_E_CONFIG_NO_NAME, 0xA0040400);
    ROW(create(long_name, kernel), VM_E_CONFIG_NAME_TOO_LONG, 0xA0040401);
    ROW(create("a/b", kernel), VM_E_CONFIG_NAME_INVALID_CHAR, 0xA0040402);
    ROW(create("WEB", kernel), VM_E_CONFIG_DUPLICATE_NAME, 0xA0040403);
    ROW_WIN32(create("new", "/nowhere/kernel"), ERROR_PATH_NOT_FOUND, 0x80070003);
    ROW(create("new", NULL), E_INVALIDARG, 0x80070057);
    ROW(vmm_virtual_pc_task(pc, 0, &task), DISP_E_BADINDEX, 0x8002000B);
    ROW_WIN32(start_nowhere(kernel), ERROR_PATH_NOT_FOUND, 0x80070003);
    ROW(start_oddly(kernel), DISP_E_EXCEPTION, 0x80020009);
    ROW(define(web, "\n[access]\nread = [\"" READER "\"]\n"), S_OK, 0);

    ROW(state(web, VMM_VM_STATE_TURNED_OFF), S_OK, 0);
    ROW(logoff(guest), VM_E_VM_NOT_RUNNING, 0xA0040206);
    ROW(guest_power(0, guest), VM_E_VM_NOT_RUNNING, 0xA0040206);
    ROW(text(vmm_guest_os_computer_name, guest), VM_E_VM_NOT_RUNNING, 0xA0040206);
    ROW(vmm_guest_os_can_shutdown(guest, &yes), S_FALSE, 1);
    HOLDS(yes == 0);
    ROW(work(vmm_machine_turn_off, web), VM_E_VM_NOT_RUNNING, 0xA0040206);
    ROW(work(vmm_machine_reset, web), VM_E_VM_NOT_RUNNING, 0xA0040206);
    ROW(vmm_machine_pause(web), VM_E_VM_NOT_RUNNING, 0xA0040206);
    ROW(vmm_machine_resume(web), VM_E_VM_NOT_RUNNING, 0xA0040206);

    ROW(logoff(nobody), VM_E_VM_UNKNOWN, 0xA0040207);
    ROW(work(vmm_machine_startup, gone), VM_E_VM_UNKNOWN, 0xA0040207);
    ROW(work(vmm_machine_turn_off, gone), VM_E_VM_UNKNOWN, 0xA0040207);
    ROW(state(gone, VMM_VM_STATE_INVALID), VM_E_VM_UNKNOWN, 0xA0040207);
    vmm_guest_os_release(nobody);
    vmm_guest_os_release(guest);
    vmm_machine_release(gone);
    vmm_machine_release(web);
}

/* What a running machine without an agent answers. */
static void runs(struct vmm_machine *web)
{
    struct vmm_guest_os *guest = guest_of(web);
    int32_t yes;
    char *value = NULL;

    ROW(state(web, VMM_VM_STATE_RUNNING), S_OK, 0);
    ROW(work(vmm_machine_startup, web), VM_E_VM_RUNNING, 0xA0040500);
    ROW(vmm_virtual_pc_delete(pc, web), VM_E_VM_RUNNING, 0xA0040500);
    ROW(define(web, ""), VM_E_PREF_VM_ACTIVE, 0xA0040302);
    ROW(vmm_machine_resume(web), E_FAIL, 0x80004005);
    ROW(vmm_machine_pause(web), S_OK, 0);
    ROW(vmm_machine_pause(web), E_FAIL, 0x80004005);
    ROW(vmm_guest_os_is_user_logged_on(guest, 1, &yes), VM_E_VM_PAUSED, 0xA0040507);
    ROW(vmm_guest_os_get_parameter(guest, "HostName", &value), VM_E_VM_PAUSED, 0xA0040507);
    ROW(vmm_guest_os_set_parameter(guest, "a", "b"), VM_E_VM_PAUSED, 0xA0040507);
    ROW(logoff(guest), VM_E_VM_NOT_RUNNING, 0xA0040206);
    ROW(vmm_machine_resume(web), S_OK, 0);

    ROW(logoff(guest), VM_E_ADDITIONS_FEATURE_NOT_AVAIL, 0xA0040505);
    ROW(guest_power(0, guest), VM_E_ADDITIONS_FEATURE_NOT_AVAIL, 0xA0040505);
    ROW(guest_power(1, guest), VM_E_ADDITIONS_FEATURE_NOT_AVAIL, 0xA0040505);
    ROW(text(vmm_guest_os_sessions, guest), VM_E_ADDITIONS_FEATURE_NOT_AVAIL, 0xA0040505);
    ROW(text(vmm_guest_os_os_name, guest), VM_E_ADDITIONS_FEATURE_NOT_AVAIL, 0xA0040505);
    ROW(truth(vmm_guest_os_screen_locked, guest), VM_E_ADDITIONS_FEATURE_NOT_AVAIL, 0xA0040505);
    ROW(truth(vmm_guest_os_is_heartbeating, guest), VM_E_ADDITIONS_NOT_AVAIL, 0xA0040504);
    ROW(text(vmm_guest_os_integration_components_version, guest), VM_E_ADDITIONS_NOT_AVAIL,
        0xA0040504);
    ROW(vmm_guest_os_is_user_logged_on(guest, 2, &yes), E_INVALIDARG, 0x80070057);
    ROW(truth(vmm_guest_os_can_shutdown, guest), S_OK, 0);
    vmm_guest_os_release(guest);
}

/* Does a scene as another user, who has a catalog of his own, in a process of its own. */
static void as(const char *name, void (*scene)(void))
{
    uid_t user = (uid_t)strtoul(name, NULL, 10);
    int status = 0;
    pid_t child;

    child = fork();
    if (child == 0) {
        HOLDS(setgroups(0, NULL) == 0 && setgid(user) == 0 && setuid(user) == 0);
        vmm_virtual_pc_release(pc);
        HOLDS(setenv("VMM_DATA_DIR", "/nowhere", 1) == 0);
        ROW(vmm_virtual_pc_open(NULL, &pc), S_OK, 0);
        scene();
        vmm_virtual_pc_release(pc);
        fflush(stdout);
        _exit(wrong != 0);
    }
    HOLDS(child > 0 && waitpid(child, &status, 0) == child && status == 0);
}

static void read_only(void)
{
    struct vmm_machine *web = get("web");
    struct vmm_guest_os *guest = guest_of(web);

    ROW(state(web, VMM_VM_STATE_RUNNING), S_OK, 0);
    ROW_WIN32(logoff(guest), ERROR_ACCESS_DENIED, 0x80070005);
    ROW_WIN32(guest_power(0, guest), ERROR_ACCESS_DENIED, 0x80070005);
    ROW_WIN32(work(vmm_machine_turn_off, web), ERROR_ACCESS_DENIED, 0x80070005);
    ROW_WIN32(vmm_machine_pause(web), ERROR_ACCESS_DENIED, 0x80070005);
    vmm_guest_os_release(guest);
    vmm_machine_release(web);
}

static void strange(void)
{
    ROW(find("web"), S_FALSE, 1);
}

static void on(void)
{
    struct vmm_machine *web;

    /* While there is nothing else that their processes would have to release. */
    if (geteuid() == 0) {
        as(READER, read_only);
        as(STRANGER, strange);
    } else {
        printf("not tested: only root can become other users\n");
    }
    web = get("web");
    runs(web);
    vmm_machine_release(web);
}

/* Polls until the machine is told to be in a state. */
static void becomes(struct vmm_pc_events *all, vmm_vm_state expected)
{
    struct pollfd poll_for = {.events = POLLIN};
    vmm_vm_state state = VMM_VM_STATE_INVALID;
    char *name = NULL;
    int tries;

    ROW(vmm_pc_events_fd(all, &poll_for.fd), S_OK, 0);
    for (tries = 0; tries < 1000 && state != expected; tries++) {
        HOLDS(poll(&poll_for, 1, 30000) == 1);
        while (state != expected && vmm_pc_events_next(all, 0, &state, &name) == S_OK) {
            HOLDS(strcmp(name, "inside") == 0);
            vmm_string_free(name);
        }
    }
    HOLDS(state == expected);
}

static void inside(const char *kernel)
{
    struct vmm_task_info info = {.size = sizeof info};
    struct vmm_event event = {.size = sizeof event};
    struct vmm_machine *web, *same;
    struct vmm_events *events = NULL;
    struct vmm_task *task = NULL;
    struct pollfd poll_for = {.events = POLLIN};
    char *json = NULL;

    struct vmm_pc_events *all = NULL;

    ROW(create("inside", kernel), S_OK, 0);
    web = get("inside");
    ROW(vmm_virtual_pc_events(pc, &all), S_OK, 0);
    ROW(begin(vmm_machine_startup, web, &task), S_OK, 0);
    ROW(vmm_task_wait_for_completion(task, -2, &info), E_INVALIDARG, 0x80070057);
    ROW(vmm_task_wait_for_completion(task, 4000001, &info), E_INVALIDARG, 0x80070057);
    ROW(vmm_task_wait_for_completion(task, -1, &info), S_OK, 0);
    ROW(info.error, S_OK, 0);
    ROW(vmm_task_cancel(task), E_FAIL, 0x80004005);
    becomes(all, VMM_VM_STATE_RUNNING);
    runs(web);

    ROW(vmm_machine_events(web, &events), S_OK, 0);
    ROW(vmm_events_fd(events, &poll_for.fd), S_OK, 0);
    ROW(vmm_events_next(events, 0, &event, &json), S_FALSE, 1);
    HOLDS(poll(&poll_for, 1, 0) == 0);
    ROW(vmm_machine_pause(web), S_OK, 0);
    HOLDS(poll(&poll_for, 1, 30000) == 1);
    ROW(vmm_events_next(events, 0, &event, &json), S_OK, 0);
    HOLDS(event.number == VMM_EVENT_NUMBER_ON_STATE_CHANGE && event.state == VMM_VM_STATE_PAUSED);
    HOLDS(json != NULL && strstr(json, "OnStateChange") != NULL);
    vmm_string_free(json);
    vmm_events_release(events);
    ROW(vmm_machine_resume(web), S_OK, 0);

    same = get("inside");
    ROW(done(vmm_machine_reset, web), S_OK, 0);
    ROW(done(vmm_machine_turn_off, same), S_OK, 0);
    becomes(all, VMM_VM_STATE_TURNED_OFF);
    vmm_pc_events_release(all);
    ROW(done(vmm_machine_startup, web), S_OK, 0);
    vmm_task_release(task);
    vmm_machine_release(web);
    /* Nobody who has started it holds it any more. */
    ROW(state(same, VMM_VM_STATE_TURNED_OFF), S_OK, 0);
    ROW(vmm_virtual_pc_delete(pc, same), S_OK, 0);
    vmm_machine_release(same);
}

/* The library keeps something for a thread that starts a machine, which goes when that thread ends.
 * The main thread's stays to the end of the process, and looks lost. */
static void *in_thread(void *kernel)
{
    inside(kernel);
    return NULL;
}

static void inside_a_thread(char *kernel)
{
    pthread_t thread;

    HOLDS(pthread_create(&thread, NULL, in_thread, kernel) == 0);
    HOLDS(pthread_join(thread, NULL) == 0);
}

int main(int count, char **arguments)
{
    const char *scene = count > 1 ? arguments[1] : "";

    setvbuf(stdout, NULL, _IOLBF, 0);
    ROW(vmm_virtual_pc_open(NULL, &pc), S_OK, 0);
    if (count == 3 && strcmp(scene, "off") == 0) {
        off(arguments[2]);
    } else if (count == 2 && strcmp(scene, "on") == 0) {
        on();
    } else if (count == 3 && strcmp(scene, "inside") == 0) {
        inside_a_thread(arguments[2]);
    } else {
        printf("no such scene: %s\n", scene);
        wrong++;
    }
    vmm_virtual_pc_release(pc);
    return wrong != 0;
}
