import os
import unittest

from prices import total


class Prices(unittest.TestCase):
    def test_sum(self) -> None:
        self.assertEqual(total([100, 250, -50]), 300)

    def test_discount_gives_no_money_away(self) -> None:
        self.assertEqual(total([100, -500]), 0)


@unittest.skipUnless(os.environ.get("CI"), "for the pipeline")
class Pipeline(unittest.TestCase):
    def test_system_cannot_be_written(self) -> None:
        with self.assertRaises(OSError):
            open("/usr/written", "w").close()
