import { memo } from 'react';
import { sparkPath } from '../lib/ops';

interface Props {
  points: readonly { at: number; value: number }[];
  now: number;
}

const WIDTH = 240;
const HEIGHT = 32;

/** The last five minutes of one number. Decoration: the number itself is written next to it. */
export const Sparkline = memo(function Sparkline({ points, now }: Props) {
  return (
    <div className="spark" aria-hidden="true">
      <svg
        viewBox={`0 0 ${WIDTH} ${HEIGHT}`}
        preserveAspectRatio="none"
        aria-hidden="true"
        data-points={points.length}
      >
        <path d={sparkPath(points, now, WIDTH, HEIGHT)} />
      </svg>
      <span>5 min ago</span>
      <span>now</span>
    </div>
  );
});
