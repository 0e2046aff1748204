"""What English sentences lean on their neighbours with: lead words, reporting frames, words that point back."""

from __future__ import annotations

import re

LEAD = re.compile(
    r"^(?:(?:however|therefore|thus|moreover|furthermore|also|in addition|additionally|for example|for instance|"
    r"note that|and|but|so|then|finally|first|second|third|lastly|similarly|hence|indeed|instead|here"
    r"|likewise|consequently|"
    r"in (?:this|the present|our) (?:study|paper|case|example|section|article|work|review)|in other words|in general|"
    r"in contrast|in short|as a result|on the other hand|by default|importantly|interestingly|recently|currently|"
    r"please|background|objectives?|results?|conclusions?|methods?|purpose|rationale|introduction|context"
    r"|findings|aims?|"
    r"main results|importance|tip|note|warning|caution|yes|no)[,:]?\s+)+"
    r"(?:(?:that|however|because|although|as well),?\s+)?",
    re.IGNORECASE,
)
REPORTED = re.compile(
    r"^(?:[\w\s,'-]{0,60}?\b(?:we|authors|results|findings|data|study|studies|experiments|analysis"
    r"|evidence|observations|"
    r"here)\s+(?:\w+ly\s+|also\s+|thus\s+|have\s+|has\s+|further\s+|indeed\s+)*"
    r"(?:show|shows|showed|shown|find|finds|found|demonstrate|demonstrates|demonstrated|report|reports"
    r"|reported|suggest|"
    r"suggests|suggested|indicate|indicates|indicated|reveal|reveals|revealed|conclude|concluded|confirm|confirmed|"
    r"establish|established|propose|provide evidence|support the (?:idea|notion|hypothesis))(?:\s+here)?\s+that)\s+",
    re.IGNORECASE,
)
POINTS_BACK = re.compile(
    r"^(?:this|that|these|those|it|they|he|she|we|such|its|their|there|which|who|our|his|her|both|one|others?|i|here|my"
    r"|the (?:following|above|former|latter|same|other|previous|next|result|results|author|authors|present))\b",
    re.IGNORECASE,
)
