"""What every worker process of Beam imports when it starts, on its main thread: there alone Python sets the handler of
a signal. `--beam_plugins` names this module, see `commands.label.beam_options`."""

from dvsft.labeler.runs import attempts

attempts.handle_sigterm()
