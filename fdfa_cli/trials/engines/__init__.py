"""The engines, which train jobs: what is trained, and what it comes to, depends on none of them.

`base` says what an engine is and `options` chooses one. `serial`, `processes` and `batched` train on this
machine, all of them through `worker`. `ray` trains on a cluster, through `ray_task` on each of its machines:
`ray_init` connects to it, `sync` brings the runs back, and `coordinator` stops tasks and sends data sets.

To add an engine, write a module here whose class is an `Engine`, add its name to `trials.engine_name`, and
give it a line in `options.choose`.
"""
