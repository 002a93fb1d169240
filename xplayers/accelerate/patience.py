"""When it pays to make a step anew, of which what was made has become invalid."""

FREE = 4  # changes after which it is made anew at once; the first look at a step is one
LONGEST = 64  # steps
PAYS = 16  # uses, of a recording about


class Patience:
    """Waits before a step is compiled or recorded again: twice as long after each change.

    Whoever puts parameters in, or sets an attribute, in each step or in every third one would have
    everything made anew each time for little use. What has been used often ends the waiting.
    """

    def __init__(self) -> None:
        self.uses = 0  # of what was made, since the last change
        self._changes = self._wait = 0

    def changed(self) -> None:
        """What was made is not valid any more."""
        if self.uses >= PAYS:
            self._changes = self._wait = 0
        self.uses = 0
        self._changes += 1
        if self._changes > FREE:
            self._wait = min(2 ** (self._changes - FREE), LONGEST)

    def over(self) -> bool:
        """Whether the waiting is over; asked before anything is made."""
        if not self._wait:
            return True
        self._wait -= 1
        return False
