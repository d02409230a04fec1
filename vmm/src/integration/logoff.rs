//! One logoff operation: what the guest says of it becomes tasks and a report.
