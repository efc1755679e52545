import { useConnection } from 'nexus-push-react';
import type { ReactNode } from 'react';
import type { SocketMeter } from '../lib/meter';
import { ConnectionLabel } from '../status/ConnectionLabel';
import { RatesLabel } from '../status/RatesLabel';
import { SimBadge } from '../status/SimBadge';
import { ErrorBoundary } from './ErrorBoundary';
import { follow, pathOf, type Route } from './route';
import { ThemeButton } from './ThemeButton';
import { TokenForm } from './TokenForm';

const PAGES: readonly { route: Route; name: string }[] = [
  { route: 'markets', name: 'Markets' },
  { route: 'ops', name: 'Operations' },
];

/** The server will never accept this token (docs/protocol.md, close codes). */
const TOKEN_REFUSED = 3500;
/** Centrifuge: "unauthorized". */
const UNAUTHORIZED = 101;

/** The bar at the top, and the page below it. */
export function Shell({ meter, route, children }: { meter: SocketMeter; route: Route; children: ReactNode }) {
  const { status, error } = useConnection();
  const refused =
    status === 'disconnected' && (error?.code === TOKEN_REFUSED || error?.code === UNAUTHORIZED)
      ? error
      : undefined;

  return (
    <>
      <header className="bar">
        <a className="brand" href={pathOf('markets')} onClick={(event) => follow(event, 'markets')}>
          <svg viewBox="0 0 24 16" width="24" height="16" aria-hidden="true">
            <path d="M1 10h4.5l2.5-7 4 11 3.2-8 1.3 4H23" />
          </svg>
          nexus-push
        </a>
        <nav className="pages" aria-label="Pages">
          {PAGES.map((page) => (
            <a
              key={page.route}
              href={pathOf(page.route)}
              aria-current={page.route === route ? 'page' : undefined}
              onClick={(event) => follow(event, page.route)}
            >
              {page.name}
            </a>
          ))}
        </nav>
        <SimBadge />
        <div className="status">
          <ErrorBoundary fallback={() => null}>
            <RatesLabel meter={meter} />
            <ConnectionLabel />
          </ErrorBoundary>
        </div>
        <ThemeButton />
      </header>
      <main className="page">
        {refused === undefined ? (
          children
        ) : (
          <TokenForm title="The server needs a token" reason={refused.message} />
        )}
      </main>
    </>
  );
}
