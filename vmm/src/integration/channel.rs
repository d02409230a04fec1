//! The connection to the agent: hello, pings, heartbeats, requests and their replies.
