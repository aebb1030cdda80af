"""The runtime floor: bundles, conmon and OCI runtimes, attachments, logs, commands in containers."""
