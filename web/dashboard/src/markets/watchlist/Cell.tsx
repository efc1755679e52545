import type { ReactNode, Ref } from 'react';

interface Props {
  /** Which column; the style sheet places and styles it by this. */
  column: 'symbol' | 'last' | 'change' | 'bid' | 'ask' | 'spread' | 'age';
  ref?: Ref<HTMLSpanElement>;
  sign?: 'up' | 'down' | undefined;
  /** For tests: what is shown, as it was sent. */
  value?: string | undefined;
  children: ReactNode;
}

/** One cell of the watchlist. Not a `td`: rows of a virtual list lie at computed places, which table layout forbids. */
export function Cell({ column, ref, sign, value, children }: Props) {
  return (
    <span
      ref={ref}
      role={column === 'symbol' ? 'rowheader' : 'gridcell'}
      className={`cell-${column} num`}
      data-sign={sign}
      data-testid={column}
      data-value={value}
    >
      {children}
    </span>
  );
}
