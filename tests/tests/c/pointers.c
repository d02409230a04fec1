/*
 * What no function may be given: null for an object or an answer, text that is none, structures of
 * the wrong size. And what every function may: null to be released.
 */
#define _POSIX_C_SOURCE 200809L

#include "check.h"

#include <pthread.h>
#include <stdlib.h>

/* Without a place for the answer, nothing is done; without an object, the answer is empty. */
#define MEMBER(type, empty, refused, answered)                        \
    do {                                                              \
        type out;                                                     \
        memset(&out, 0x55, sizeof out);                               \
        ROW(refused, E_POINTER, 0x80004003);                          \
        ROW_WIN32(answered, ERROR_INVALID_HANDLE, 0x80070006);        \
        HOLDS(out == (empty));                                        \
    } while (0)
#define GETTER(function, type) MEMBER(type, 0, function(NULL, NULL), function(NULL, &out))

/* As that, for structures, which keep their size. */
#define STRUCTURE(type, refused, answered)                            \
    do {                                                              \
        struct type out, empty = {.size = sizeof empty};              \
        memset(&out, 0x55, sizeof out);                               \
        out.size = sizeof out;                                        \
        ROW(refused, E_POINTER, 0x80004003);                          \
        ROW_WIN32(answered, ERROR_INVALID_HANDLE, 0x80070006);        \
        HOLDS(memcmp(&out, &empty, sizeof out) == 0);                 \
        out.size = 2;                                                 \
        ROW(answered, E_INVALIDARG, 0x80070057);                      \
        out.size = UINT32_MAX;                                        \
        ROW(answered, E_INVALIDARG, 0x80070057);                      \
    } while (0)

static void machines(void)
{
    GETTER(vmm_virtual_pc_name, char *);
    GETTER(vmm_virtual_pc_version, char *);
    MEMBER(struct vmm_machine *, NULL, vmm_virtual_pc_find(NULL, "web", NULL),
           vmm_virtual_pc_find(NULL, "web", &out));
    MEMBER(struct vmm_machine *, NULL, vmm_virtual_pc_create(NULL, "web", NULL, NULL),
           vmm_virtual_pc_create(NULL, "web", NULL, &out));
    MEMBER(struct vmm_machine *, NULL, vmm_virtual_pc_register(NULL, NULL, "/nowhere", NULL),
           vmm_virtual_pc_register(NULL, NULL, "/nowhere", &out));
    MEMBER(char *, NULL, vmm_virtual_pc_unregister(NULL, NULL, NULL),
           vmm_virtual_pc_unregister(NULL, NULL, &out));
    ROW_WIN32(vmm_virtual_pc_delete(NULL, NULL), ERROR_INVALID_HANDLE, 0x80070006);
    GETTER(vmm_virtual_pc_machine_count, uint32_t);
    GETTER(vmm_virtual_pc_task_count, uint32_t);
    MEMBER(struct vmm_machine *, NULL, vmm_virtual_pc_machine_at(NULL, 0, NULL),
           vmm_virtual_pc_machine_at(NULL, 0, &out));
    MEMBER(struct vmm_task *, NULL, vmm_virtual_pc_task_at(NULL, 0, NULL),
           vmm_virtual_pc_task_at(NULL, 0, &out));
    MEMBER(struct vmm_task *, NULL, vmm_virtual_pc_task(NULL, 1, NULL),
           vmm_virtual_pc_task(NULL, 1, &out));

    GETTER(vmm_machine_name, char *);
    GETTER(vmm_machine_state, vmm_vm_state);
    GETTER(vmm_machine_info, char *);
    GETTER(vmm_machine_file, char *);
    GETTER(vmm_machine_definition, char *);
    ROW_WIN32(vmm_machine_set_definition(NULL, ""), ERROR_INVALID_HANDLE, 0x80070006);
    GETTER(vmm_machine_startup, struct vmm_task *);
    GETTER(vmm_machine_turn_off, struct vmm_task *);
    GETTER(vmm_machine_reset, struct vmm_task *);
    ROW_WIN32(vmm_machine_pause(NULL), ERROR_INVALID_HANDLE, 0x80070006);
    ROW_WIN32(vmm_machine_resume(NULL), ERROR_INVALID_HANDLE, 0x80070006);
    GETTER(vmm_machine_guest_os, struct vmm_guest_os *);
    GETTER(vmm_machine_events, struct vmm_events *);
    GETTER(vmm_machine_task_count, uint32_t);
    MEMBER(struct vmm_task *, NULL, vmm_machine_task_at(NULL, 0, NULL),
           vmm_machine_task_at(NULL, 0, &out));
}

static void guests(void)
{
    MEMBER(struct vmm_task *, NULL, vmm_guest_os_logoff(NULL, NULL, NULL),
           vmm_guest_os_logoff(NULL, NULL, &out));
    MEMBER(struct vmm_task *, NULL, vmm_guest_os_shutdown(NULL, 0, NULL),
           vmm_guest_os_shutdown(NULL, 0, &out));
    MEMBER(struct vmm_task *, NULL, vmm_guest_os_install_integration_components(NULL, NULL),
           vmm_guest_os_install_integration_components(NULL, &out));
    MEMBER(struct vmm_task *, NULL, vmm_guest_os_restart(NULL, 0, NULL),
           vmm_guest_os_restart(NULL, 0, &out));
    MEMBER(int32_t, 0, vmm_guest_os_is_user_logged_on(NULL, 0, NULL),
           vmm_guest_os_is_user_logged_on(NULL, 0, &out));
    MEMBER(char *, NULL, vmm_guest_os_get_parameter(NULL, "a", NULL),
           vmm_guest_os_get_parameter(NULL, "a", &out));
    ROW_WIN32(vmm_guest_os_set_parameter(NULL, "a", "b"), ERROR_INVALID_HANDLE, 0x80070006);
    STRUCTURE(vmm_os_version_info, vmm_guest_os_os_version_info(NULL, NULL),
              vmm_guest_os_os_version_info(NULL, &out));
    GETTER(vmm_guest_os_sessions, char *);
    GETTER(vmm_guest_os_can_shutdown, int32_t);
    GETTER(vmm_guest_os_computer_name, char *);
    GETTER(vmm_guest_os_csd_version, char *);
    GETTER(vmm_guest_os_heartbeat_percentage, uint32_t);
    GETTER(vmm_guest_os_integration_components_version, char *);
    GETTER(vmm_guest_os_is_heartbeating, int32_t);
    GETTER(vmm_guest_os_is_host_time_sync_enabled, int32_t);
    GETTER(vmm_guest_os_multiple_user_sessions_allowed, int32_t);
    GETTER(vmm_guest_os_os_build_number, char *);
    GETTER(vmm_guest_os_os_info, char *);
    GETTER(vmm_guest_os_os_major_version, char *);
    GETTER(vmm_guest_os_os_minor_version, char *);
    GETTER(vmm_guest_os_os_name, char *);
    GETTER(vmm_guest_os_os_platform_id, char *);
    GETTER(vmm_guest_os_os_version, char *);
    GETTER(vmm_guest_os_product_type, char *);
    GETTER(vmm_guest_os_screen_locked, int32_t);
    GETTER(vmm_guest_os_service_pack_major, char *);
    GETTER(vmm_guest_os_service_pack_minor, char *);
    GETTER(vmm_guest_os_suite_mask, char *);
    GETTER(vmm_guest_os_terminal_server_port, uint32_t);
    GETTER(vmm_guest_os_terminal_services_initialized, int32_t);
}

static void tasks_and_events(void)
{
    char *text = NULL;

    STRUCTURE(vmm_task_info, vmm_task_get_info(NULL, NULL), vmm_task_get_info(NULL, &out));
    STRUCTURE(vmm_task_info, vmm_task_next(NULL, NULL), vmm_task_next(NULL, &out));
    STRUCTURE(vmm_task_info, vmm_task_wait_for_completion(NULL, 0, NULL),
              vmm_task_wait_for_completion(NULL, 0, &out));
    GETTER(vmm_task_description, char *);
    GETTER(vmm_task_error_description, char *);
    GETTER(vmm_task_report, char *);
    GETTER(vmm_task_machine, struct vmm_machine *);
    MEMBER(int, -1, vmm_task_fd(NULL, NULL), vmm_task_fd(NULL, &out));
    ROW_WIN32(vmm_task_cancel(NULL), ERROR_INVALID_HANDLE, 0x80070006);
    MEMBER(int, -1, vmm_events_fd(NULL, NULL), vmm_events_fd(NULL, &out));
    GETTER(vmm_virtual_pc_events, struct vmm_pc_events *);
    MEMBER(int, -1, vmm_pc_events_fd(NULL, NULL), vmm_pc_events_fd(NULL, &out));
    MEMBER(vmm_vm_state, VMM_VM_STATE_INVALID, vmm_pc_events_next(NULL, 0, NULL, &text),
           vmm_pc_events_next(NULL, 0, &out, &text));
    STRUCTURE(vmm_event, vmm_events_next(NULL, 0, NULL, &text),
              vmm_events_next(NULL, 0, &out, &text));
    STRUCTURE(vmm_event, vmm_events_next(NULL, 0, &out, NULL),
              vmm_events_next(NULL, 0, &out, &text));
}

static void arguments(void)
{
    struct vmm_virtual_pc_options options = {.size = sizeof options, .data_dir = "/nowhere"};
    struct vmm_machine_options machine_options = {.size = 12, .kernel = "/nowhere/kernel"};
    struct vmm_virtual_pc *other = NULL;
    struct vmm_machine *machine = NULL;
    struct vmm_task *task = NULL;
    char *text = NULL;

    ROW(vmm_virtual_pc_open(NULL, NULL), E_POINTER, 0x80004003);
    ROW(vmm_virtual_pc_open(&options, &pc), E_INVALIDARG, 0x80070057);
    HOLDS(pc == NULL && strstr(vmm_last_error_text(), "folder") != NULL);
    options.data_dir = NULL;
    options.reserved = 1;
    ROW(vmm_virtual_pc_open(&options, &pc), E_INVALIDARG, 0x80070057);
    options.size = 3;
    ROW(vmm_virtual_pc_open(&options, &pc), E_INVALIDARG, 0x80070057);
    ROW(vmm_virtual_pc_open(NULL, &pc), S_OK, 0);

    ROW(vmm_virtual_pc_name(pc, &text), S_OK, 0);
    HOLDS(strcmp(text, "vmm") == 0);
    vmm_string_free(text);
    ROW(vmm_virtual_pc_version(pc, &text), S_OK, 0);
    vmm_string_free(text);
    ROW(vmm_virtual_pc_find(pc, NULL, &machine), E_POINTER, 0x80004003);
    ROW(vmm_virtual_pc_find(pc, "\xff", &machine), E_INVALIDARG, 0x80070057);
    ROW(vmm_virtual_pc_create(pc, "web", NULL, &machine), E_POINTER, 0x80004003);
    ROW(vmm_virtual_pc_create(pc, "web", &machine_options, &machine), E_INVALIDARG, 0x80070057);
    ROW(vmm_virtual_pc_register(pc, NULL, NULL, &machine), E_POINTER, 0x80004003);
    ROW_WIN32(vmm_virtual_pc_unregister(pc, NULL, &text), ERROR_INVALID_HANDLE, 0x80070006);
    ROW_WIN32(vmm_virtual_pc_delete(pc, NULL), ERROR_INVALID_HANDLE, 0x80070006);
    ROW(vmm_virtual_pc_machine_at(pc, UINT32_MAX, &machine), DISP_E_BADINDEX, 0x8002000B);
    ROW(vmm_virtual_pc_task_at(pc, UINT32_MAX, &task), DISP_E_BADINDEX, 0x8002000B);

    /* Every reference counts. */
    other = pc;
    vmm_virtual_pc_add_ref(other);
    vmm_virtual_pc_release(pc);
    ROW(vmm_virtual_pc_name(other, &text), S_OK, 0);
    vmm_string_free(text);
    vmm_virtual_pc_release(other);
}

static void nothing(void)
{
    vmm_virtual_pc_add_ref(NULL);
    vmm_virtual_pc_release(NULL);
    vmm_machine_add_ref(NULL);
    vmm_machine_release(NULL);
    vmm_guest_os_add_ref(NULL);
    vmm_guest_os_release(NULL);
    vmm_task_add_ref(NULL);
    vmm_task_release(NULL);
    vmm_pc_events_add_ref(NULL);
    vmm_pc_events_release(NULL);
    vmm_events_add_ref(NULL);
    vmm_events_release(NULL);
    vmm_string_free(NULL);
    HOLDS(strcmp(vmm_hresult_text(VMM_ERROR_NO_SUCH_LOGON_SESSION), "nobody is logged on") == 0);
    HOLDS(strcmp(vmm_hresult_symbol(0x12345678), "?") == 0);
    HOLDS(strcmp(vmm_hresult_text(0x12345678), "?") == 0);
}

/* What another thread was told is not told here. */
static void *other_thread(void *unused)
{
    HOLDS(vmm_last_error_text()[0] == '\0');
    ROW_WIN32(vmm_machine_pause(unused), ERROR_INVALID_HANDLE, 0x80070006);
    return NULL;
}

int main(void)
{
    pthread_t thread;

    machines();
    guests();
    tasks_and_events();
    arguments();
    nothing();
    HOLDS(vmm_last_error_text()[0] != '\0');
    HOLDS(pthread_create(&thread, NULL, other_thread, NULL) == 0);
    HOLDS(pthread_join(thread, NULL) == 0);
    HOLDS(strstr(vmm_last_error_text(), "object is null") == NULL);
    return wrong != 0;
}
