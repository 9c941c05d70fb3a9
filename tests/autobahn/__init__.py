"""Conformance of our WebSockets, judged by the fuzzing client of the Autobahn test suite."""
