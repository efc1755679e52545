/** What a phone shows, one at a time. */
export type View = 'watchlist' | 'chart' | 'book' | 'signals';

const VIEWS: readonly { view: View; name: string }[] = [
  { view: 'watchlist', name: 'Watchlist' },
  { view: 'chart', name: 'Chart' },
  { view: 'book', name: 'Book' },
  { view: 'signals', name: 'Signals' },
];

/** Chooses what a phone shows. */
export function Tabs({ view, onView }: { view: View; onView: (view: View) => void }) {
  return (
    <nav className="tabs" aria-label="Panels">
      {VIEWS.map((one) => (
        <button
          key={one.view}
          type="button"
          aria-current={one.view === view ? 'true' : undefined}
          onClick={() => onView(one.view)}
        >
          {one.name}
        </button>
      ))}
    </nav>
  );
}
