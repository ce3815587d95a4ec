"""The native configuration: every setting, once, with its unit, default and effect.

`listeners`, `rules`, `services` and `stages` have the settings, `config` the whole, `settings` what all have in common.

This is vocabulary: any module may import it. It reads no file (`config.load` does) and decides nothing (`policy` does).
Unknown keys are errors, so a setting that is misspelled never falls back to a default in silence.
"""
