"""The group `signalbox workflow`. Importing this module is cheap: `check` and `schema` need no database."""

from __future__ import annotations

from app.cli.lazy_group import LazyGroup

group = LazyGroup(
    "workflow",
    help="Workflows: check, save, enable, simulate and delete them.",
    lazy_commands={
        "apply": ("app.cli.workflow_commands:apply", "Save workflows or new versions of them."),
        "backtest": ("app.cli.simulate:backtest", "Simulate a document on the stored events."),
        "check": ("app.cli.workflow_check:check", "Print all errors in FILES."),
        "delete": ("app.cli.workflow_commands:delete", "Delete a workflow with its versions and runs."),
        "disable": ("app.cli.workflow_commands:disable", "Disable a workflow: it looks at no further event."),
        "enable": ("app.cli.workflow_commands:enable", "Enable a workflow: it looks at events from now on."),
        "import-cxengage": ("app.cli.import_cxengage:import_cxengage", "Print a CxEngage pattern as a workflow."),
        "list": ("app.cli.workflow_commands:list_", "List the workflows of an account by name."),
        "schema": ("app.cli.workflow_check:schema", "Print the JSON Schema of workflow documents, for editors."),
        "show": ("app.cli.workflow_commands:show", "Print the document of a workflow."),
        "simulate": ("app.cli.simulate:simulate_", "Simulate a document on a file of events."),
        "try": ("app.cli.workflow_trial:try_", "Show what the steps of a document would send."),
    },
)
